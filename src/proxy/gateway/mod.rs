//! Requests by the path of an API: `/api/NAME/PATH` goes to its target, with `PATH` as it was written.
//!
//! What leaves is made here: its target ([`path`]), its fields ([`fields`]), its body, looked at where
//! the API wants that ([`body`]). All between that and the answer is [`super::pipeline`], as for
//! forward traffic.
//!
//! Invariants: no byte of path, query or body changes, but for the prefixes that the operator
//! rewrites; the credentials by which a client uses us go to no target; the API's own are set on no
//! TRACE, and in clear text only where the operator has said `http://`.

pub(super) mod body;
pub(super) mod fields;
mod path;

use std::sync::Arc;

use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::Response;
use http::Uri;
use http::Version;
use http::header;

use super::Thread;
use super::asker::Asker;
use super::cache;
use super::cache::Looked;
use super::cache::Sight;
use super::cache::Site;
use super::forward;
use super::gates;
use super::gates::Ask;
use super::gates::Entered;
use super::headers;
use super::pipeline;
use super::pipeline::Failed;
use super::pipeline::Order;
use super::reject::Reject;
use super::story::Kind;
use super::story::Story;
use super::tally;
use super::toll;
use super::toll::Payer;
use crate::base::authority::Authority;
use crate::base::authority::Host;
use crate::base::identity::Identity;
use crate::policy::access::entrance::Place;
use crate::policy::api::Api;
use crate::policy::api::Apis;
use crate::policy::cache::key;
use crate::telemetry::metrics::Route;
use crate::upstream::source::Source;

/// Before the name of an API.
const PREFIX: &str = "/api/";

/// Whether a path of ours is the gateway's.
pub(super) fn has(uri: &Uri) -> bool {
    uri.path().starts_with(PREFIX)
}

/// The API that a request to the gateway is for.
pub(super) fn find(
    thread: &Thread,
    apis: &Apis,
    request: &Request<Source>,
) -> Result<Arc<Api>, Reject> {
    let name = path::name(request.uri().path());
    if name.is_empty() {
        return Err(Reject::NotForProxy);
    }
    if !is_called(&thread.settings.gateway_hosts, request) {
        return Err(Reject::Misdirected);
    }
    let api = apis.named(name).map(Arc::clone);
    let api = api.filter(|api| api.settings.target.is_some());
    api.ok_or_else(|| Reject::UnknownApi(name.to_owned()))
}

/// Whether a request calls the gateway by a name that it has. SECURITY: a web page whose name has been
/// made to lead here would read an API's answers through its visitor's browser, by its key.
fn is_called(known: &[Host], request: &Request<Source>) -> bool {
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    let field = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    // What has no Host is HTTP/1.0, and no browser.
    let Some(text) = authority.or(field).filter(|_| !known.is_empty()) else { return true };
    match Authority::parse(text, Some(80)) {
        Ok(authority) => match authority.host() {
            Host::Address(_) => true,
            Host::Name(name) => &**name == "localhost" || known.contains(authority.host()),
        },
        Err(_) => false,
    }
}

fn takes(methods: &[Method], method: &Method) -> bool {
    // RFC 9110 §9.1: a server that knows GET knows HEAD.
    let alike = if *method == Method::HEAD { &Method::GET } else { method };
    methods.is_empty() || methods.iter().any(|taken| taken == method || taken == alike)
}

/// What Allow says of these methods (RFC 9110 §10.2.1).
fn allowed(methods: &[Method]) -> String {
    let mut names: Vec<&str> = methods.iter().map(Method::as_str).collect();
    if names.contains(&"GET") && !names.contains(&"HEAD") {
        names.push("HEAD");
    }
    names.join(", ")
}

/// The field by which a request to the gateway says who asks. Most clients of a gateway know of no
/// proxy, so that without Proxy-Authorization it is Authorization, which then is ours and goes no
/// further; but not where we ask for no password, or know the client by its certificate.
pub(super) fn claim(thread: &Thread, client: &Asker, request: &Request<Source>) -> HeaderName {
    let asks = thread.gate.as_ref().is_some_and(|gate| gate.asks_passwords());
    let by_proxy = request.headers().contains_key(header::PROXY_AUTHORIZATION);
    if asks && !by_proxy && client.certificate().is_none() {
        header::AUTHORIZATION
    } else {
        header::PROXY_AUTHORIZATION
    }
}

/// A request to the gateway that may be served.
pub(super) struct Call<'a> {
    pub(super) api: &'a Arc<Api>,
    pub(super) identity: &'a Identity,
    /// How many hops it may still make after this one.
    pub(super) left: Option<u32>,
    /// Its Authorization was meant for us.
    pub(super) is_authorization_ours: bool,
}

/// Serves one.
pub(super) async fn serve(
    thread: &Thread,
    client: &Asker,
    request: Request<Source>,
    call: Call<'_>,
    story: &mut Story,
) -> Result<Response<Kind>, Failed> {
    let Call { api, identity, left, is_authorization_ours } = call;
    let gateway = &api.settings.gateway;
    let (Some(target), Some(host)) = (&api.settings.target, &api.host) else {
        return Err(Reject::UnknownApi(api.name().to_string()).into());
    };
    story.bound_for(Route::Gateway, &target.authority);
    if !takes(&gateway.methods, request.method()) {
        return Err(Reject::Method(allowed(&gateway.methods)).into());
    }
    story.meets(api);
    let asked = request.uri().path_and_query().map_or("/", |asked| asked.as_str());
    let ask = Ask {
        thread,
        client,
        api,
        identity,
        place: Place::Gateway(request.headers()),
        method: request.method(),
        path: Some(path::behind_name(asked)),
    };
    let Entered { known, field } =
        gates::enter(ask, story.docket()).await.ok_or(Failed::Left)??;
    story.asked_by(&known.identity);
    let payer = Payer {
        client,
        known: &known,
        host: target.authority.key(),
        method: request.method(),
        fields: request.headers(),
    };
    toll::take(api, payer, &mut story.docket, &mut story.told).await.ok_or(Failed::Left)??;
    let ours: Vec<HeaderName> =
        is_authorization_ours.then_some(header::AUTHORIZATION).into_iter().chain(field).collect();
    let mut inquiry = None;
    let mut joined = None;
    if api.cache.is_some() {
        let uri = joined.insert(join(api, request.uri())?);
        let (path, query) = (uri.path(), uri.query());
        let place = key::Place { tls: target.tls, authority: &target.authority, path, query };
        let sight = Sight::Gateway { ours: ours.clone() };
        match cache::look(thread, client, Site::of(api, place, &request, sight), story) {
            Looked::Answer(answer) => return Ok(answer),
            Looked::Inquiry(found) => inquiry = Some(found),
            Looked::Nothing => {}
        }
    }
    if !inquiry.as_ref().is_some_and(|inquiry| inquiry.may_be_found()) {
        pipeline::refused(api, target.authority.key(), story.docket())?;
    }
    let (mut parts, body) = request.into_parts();
    let (patience, deadline) = forward::patience(thread, &parts.headers);
    let version = parts.version;
    let named = parts.uri.authority();
    let named = named.and_then(|named| HeaderValue::from_str(named.as_str()).ok());
    parts.uri = match joined {
        Some(uri) => uri,
        None => join(api, &parts.uri)?,
    };

    let told = gateway.forwarded.then(|| fields::Told::of(client, &parts.headers, named));

    let hop = headers::strip(&mut parts.headers, version);
    if hop.closes {
        client.says_goodbye();
    }
    let upgrade = hop.upgrade.clone();
    let came = std::mem::take(&mut parts.headers);
    let (kept, came) = fields::choose(came, gateway, upgrade.is_some(), &ours, host);
    parts.headers = kept;
    if let Some(told) = told {
        told.put(&mut parts.headers);
    }
    fields::dress(&mut parts.headers, &parts.method, gateway);
    headers::restore(&mut parts.headers, hop);
    if let Some(via) = &thread.via {
        via.add(&mut parts.headers, version);
    }
    parts.version = Version::HTTP_11;
    let body = body::judge(thread, client, gateway, &mut parts.headers, body)
        .await
        .inspect_err(|failed| tally::turned_away(api, failed))?;
    forward::finish(&mut parts, &body, left);
    let order = Order {
        thread,
        client,
        identity: &known.identity,
        api: Some(api),
        authority: &target.authority,
        tls: target.tls,
        patience,
        deadline,
        version,
        asked: came.as_ref(),
    };
    forward::exchange(&order, parts, body, upgrade, inquiry, story).await
}

/// Where at its target a request of an API goes.
fn join(api: &Api, asked: &Uri) -> Result<Uri, Failed> {
    let base = api.settings.target.as_ref().map_or("", |target| &target.path);
    let asked = asked.path_and_query().map_or("/", |asked| asked.as_str());
    path::join(base, &api.settings.gateway.rewrite, asked)
        .map_err(Failed::from)
        .inspect_err(|failed| tally::turned_away(api, failed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_get_is_taken_head_is_and_allow_says_so() {
        let methods = [Method::GET, Method::POST];
        assert!(takes(&methods, &Method::HEAD) && takes(&methods, &Method::POST));
        assert!(!takes(&methods, &Method::DELETE));
        assert!(!takes(&[Method::POST], &Method::HEAD));
        assert!(takes(&[], &Method::DELETE));
        assert_eq!(allowed(&methods), "GET, POST, HEAD");
        assert_eq!(allowed(&[Method::POST]), "POST");
    }
}
