//! What the sums of cells say, as text.

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use super::*;

fn text(metrics: &Arc<Metrics>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Arc::clone(metrics)));
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    text
}

#[test]
fn the_cells_of_all_threads_are_added_up() {
    let metrics = Arc::new(Metrics::new(2, false));
    for thread in 0..2 {
        let cells = metrics.thread(thread);
        cells.client_opened();
        cells.answered(Route::Connect, 200);
        cells.answered(Route::Own, 404);
        cells.sent(10);
        cells.received(1000);
        cells.dialled(DialResult::Ok, Duration::from_millis(2));
        cells.parked();
        cells.reused();
        cells.yielded(Yielded::Tunnel);
    }
    metrics.thread(0).client_closed();
    metrics.thread(1).unparked();
    metrics.thread(1).dialled(DialResult::Refused, Duration::from_secs(100));
    let text = text(&metrics);
    for line in [
        "narrows_client_connections 1",
        "narrows_requests_total{route=\"connect\",status_class=\"2xx\"} 2",
        "narrows_requests_total{route=\"own\",status_class=\"4xx\"} 2",
        "narrows_requests_total{route=\"forward\",status_class=\"2xx\"} 0",
        "narrows_bytes_total{direction=\"to_upstream\"} 20",
        "narrows_bytes_total{direction=\"to_client\"} 2000",
        "narrows_dials_total{result=\"ok\"} 2",
        "narrows_dials_total{result=\"refused\"} 1",
        "narrows_dial_duration_seconds_count 3",
        "narrows_dial_duration_seconds_sum 100.004",
        "narrows_dial_duration_seconds_bucket{le=\"0.001\"} 0",
        "narrows_dial_duration_seconds_bucket{le=\"0.0025\"} 2",
        "narrows_dial_duration_seconds_bucket{le=\"60.0\"} 2",
        "narrows_dial_duration_seconds_bucket{le=\"+Inf\"} 3",
        "narrows_pool_idle 1",
        "narrows_reused_total 2",
        "narrows_idle_reclaimed_total{kind=\"tunnel\"} 2",
        "narrows_idle_reclaimed_total{kind=\"pooled\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
    assert!(text.contains("narrows_build_info{version=\""), "{text}");
    assert!(!text.contains("redis"), "no Redis, nothing to say of it:\n{text}");
}

#[test]
fn a_time_on_a_bound_belongs_to_its_bucket() {
    assert_eq!(bucket(&DIAL_BOUNDS, Duration::from_millis(1)).0, 0);
    assert_eq!(bucket(&DIAL_BOUNDS, Duration::from_micros(1001)).0, 1);
    assert_eq!(bucket(&DIAL_BOUNDS, Duration::MAX).0, DIAL_BOUNDS.len());
}

#[test]
fn a_shared_narrows_tells_of_its_redis() {
    let metrics = Arc::new(Metrics::new(1, true));
    metrics.redis_called(Duration::from_micros(300));
    metrics.redis_failed();
    let text = text(&metrics);
    for line in [
        "narrows_redis_errors_total 1",
        "narrows_redis_call_duration_seconds_count 1",
        "narrows_redis_call_duration_seconds_bucket{le=\"0.00025\"} 0",
        "narrows_redis_call_duration_seconds_bucket{le=\"0.0005\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
}

#[test]
fn an_odd_status_counts_in_the_nearest_class() {
    let metrics = Arc::new(Metrics::new(1, false));
    metrics.thread(0).answered(Route::Forward, 799);
    metrics.thread(7).answered(Route::Forward, 0);
    let text = text(&metrics);
    assert!(text.contains("{route=\"forward\",status_class=\"5xx\"} 1"), "{text}");
    assert!(text.contains("{route=\"forward\",status_class=\"1xx\"} 1"), "{text}");
}

#[test]
fn names_are_counted_up_to_a_bound() {
    let metrics = Arc::new(Metrics::new(2, false));
    for thread in 0..2 {
        metrics.thread(thread).asked_by(&"a \"b\"\n".into());
    }
    for number in 0..NAMES + 4 {
        metrics.thread(0).asked_by(&number.to_string().into());
    }
    metrics.users_reloaded(false);
    let text = text(&metrics);
    for line in [
        r#"narrows_identity_requests_total{identity="a \"b\"\n"} 2"#,
        r#"narrows_identity_requests_total{identity="(other)"} 5"#,
        r#"narrows_users_reloads_total{result="failed"} 1"#,
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
    let names = text.lines().filter(|line| line.starts_with("narrows_identity_requests_total"));
    assert_eq!(names.count(), NAMES + 1);
}

#[test]
fn every_variant_has_its_own_cell() {
    for (index, result) in DialResult::ALL.into_iter().enumerate() {
        assert_eq!(result as usize, index);
    }
    for (index, route) in Route::ALL.into_iter().enumerate() {
        assert_eq!(route as usize, index);
    }
    for (index, what) in Barred::ALL.into_iter().enumerate() {
        assert_eq!(what as usize, index);
    }
    for (index, what) in Bound::ALL.iter().enumerate() {
        assert_eq!(*what as usize, index);
    }
    for (index, what) in Yielded::ALL.into_iter().enumerate() {
        assert_eq!(what as usize, index);
    }
}
