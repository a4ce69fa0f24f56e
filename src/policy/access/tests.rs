//! The gate with a file of users, without a proxy around it.

use std::fs;

use tempfile::TempDir;

use super::users::tests::cheap;
use super::*;

fn caller(address: &str) -> Caller<'static> {
    Caller { address: address.parse().unwrap(), certificate: None }
}

fn settings(users: Option<&Path>, networks: &[&str]) -> Settings {
    let networks = networks.iter().map(|network| network.parse().unwrap()).collect();
    Settings { users: users.map(Path::to_owned), networks, queue: 64 }
}

fn file(text: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("users");
    fs::write(&path, text).unwrap();
    (folder, path)
}

/// `a:b` and `a:c` as a client writes them.
const RIGHT: &[u8] = b"Basic YTpi";
const WRONG: &[u8] = b"Basic YTpj";
const STRANGER: &[u8] = b"Basic eDpi";

async fn admitted(gate: &Gate, value: Option<&[u8]>) -> Result<Identity, Denied> {
    gate.admit(Given::new(value), caller("192.0.2.1")).await
}

#[tokio::test]
async fn nothing_asked_is_no_gate() {
    assert!(Gate::new(&settings(None, &[]), false).unwrap().is_none());
}

#[tokio::test]
async fn a_user_is_known_by_name_and_nobody_else_is() {
    let (_folder, path) = file(&format!("a:{}", cheap("b")));
    let gate = Gate::new(&settings(Some(&path), &[]), false).unwrap().unwrap();
    for _ in 0..2 {
        assert_eq!(admitted(&gate, Some(RIGHT)).await, Ok(Identity::Name("a".into())));
        assert_eq!(admitted(&gate, Some(WRONG)).await, Err(Denied::Credentials));
        assert_eq!(admitted(&gate, Some(STRANGER)).await, Err(Denied::Credentials));
        assert_eq!(admitted(&gate, Some(b"Bearer x")).await, Err(Denied::Credentials));
        assert_eq!(admitted(&gate, None).await, Err(Denied::Credentials));
    }
}

#[tokio::test]
async fn a_network_is_asked_of_all_and_a_certificate_stands_in_for_a_password() {
    let (_folder, path) = file(&format!("a:{}", cheap("b")));
    let gate = Gate::new(&settings(Some(&path), &["192.0.2.0/24", "2001:db8::/32"]), true);
    let gate = gate.unwrap().unwrap();
    let certificate: Arc<str> = "c".into();
    let admit = async |value: Option<&'static [u8]>, address: &str, shown: bool| {
        let certificate = shown.then_some(&certificate);
        gate.admit(Given::new(value), Caller { certificate, ..caller(address) }).await
    };
    let name = |name: &str| Ok(Identity::Name(name.into()));
    assert_eq!(admit(Some(RIGHT), "192.0.3.1", true).await, Err(Denied::Network));
    assert_eq!(admit(None, "::ffff:192.0.2.9", true).await, name("c"));
    assert_eq!(
        admit(Some(RIGHT), "2001:db8::1", true).await,
        name("a"),
        "the password counts more"
    );
    assert_eq!(admit(Some(WRONG), "192.0.2.1", true).await, Err(Denied::Credentials));
    assert_eq!(admit(None, "192.0.2.1", false).await, Err(Denied::Credentials));
}

#[tokio::test]
async fn without_users_a_certificate_is_needed_or_an_address_is_enough() {
    let gate = Gate::new(&settings(None, &[]), true).unwrap().unwrap();
    assert_eq!(admitted(&gate, Some(RIGHT)).await, Err(Denied::Certificate));
    let gate = Gate::new(&settings(None, &["192.0.2.1/32"]), false).unwrap().unwrap();
    let address = Identity::of_address("192.0.2.1".parse().unwrap());
    assert_eq!(admitted(&gate, Some(WRONG)).await, Ok(address));
}

#[tokio::test]
async fn a_changed_file_is_taken_over_and_a_wrong_one_changes_nothing() {
    let (_folder, path) = file(&format!("a:{}", cheap("b")));
    let gate = Gate::new(&settings(Some(&path), &[]), false).unwrap().unwrap();
    let door = gate.users.as_ref().unwrap();
    let user = || Ok(Identity::Name("a".into()));
    assert_eq!(admitted(&gate, Some(RIGHT)).await, user());
    assert_eq!(admitted(&gate, Some(WRONG)).await, Err(Denied::Credentials));
    assert!(door.look(&door.first).is_none());

    fs::write(&path, "a:nothing").unwrap();
    let (seen, result) = door.look(&door.first).unwrap();
    assert_eq!(result.unwrap_err().to_string().split(':').next(), Some("line 1"));
    assert!(door.look(&seen).is_none(), "told once");
    assert_eq!(admitted(&gate, Some(RIGHT)).await, user());

    fs::remove_file(&path).unwrap();
    let (seen, result) = door.look(&seen).unwrap();
    assert!(matches!(result, Err(BadUsers::Unreadable(_))));
    assert_eq!(admitted(&gate, Some(RIGHT)).await, user());

    fs::write(&path, format!("a:{}:limit=3", cheap("c"))).unwrap();
    let (_, result) = door.look(&seen).unwrap();
    assert_eq!(result.unwrap(), Change { users: 1, changed: 1 });
    assert_eq!(admitted(&gate, Some(RIGHT)).await, Err(Denied::Credentials), "it was remembered");
    assert_eq!(admitted(&gate, Some(WRONG)).await, user(), "what was wrong is right");
    assert_eq!(gate.traits().len(), 1);
}

#[tokio::test]
async fn a_gate_that_is_gone_leaves_no_thread_behind() {
    let (_folder, path) = file(&format!("a:{}", cheap("b")));
    let gate = Gate::new(&settings(Some(&path), &[]), false).unwrap().unwrap();
    let door = Arc::downgrade(gate.users.as_ref().unwrap());
    drop(gate);
    for _ in 0..1000 {
        if door.strong_count() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("somebody still verifies");
}

#[test]
fn a_new_hash_is_one_that_a_file_takes() {
    let (_folder, path) = file(&format!("a:{}", hash_password(b"b").unwrap()));
    assert_eq!(check_users(&path).unwrap(), 1);
}
