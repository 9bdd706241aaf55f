//! The pages: what the API answers, for people. Made on the server; the script only keeps them fresh and adds keys.

mod assets;
mod blast;
mod changes;
mod coverage;
mod escape;
mod filter;
mod frame;
mod incident;
pub(super) mod login;
mod now;
mod part;
mod picture;
mod preferences;
mod time;
mod workload;

use std::sync::Arc;

use axum::{
    Router,
    http::{HeaderName, HeaderValue, header},
    middleware,
    response::Response,
    routing::{MethodRouter, get, post},
};
use tower_http::compression::CompressionLayer;

pub(super) use self::preferences::{Preferences, own};
use super::{Ahti, auth::login::PATH as LOGIN};

/// What a browser may do with a page: nothing from elsewhere, no script and no style in the page itself, no frame around it.
const HEADERS: [(HeaderName, &str); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// A path with what answers there.
type Page = (&'static str, fn() -> MethodRouter<Arc<Ahti>>);

pub(super) const ROUTES: &[Page] = &[
    ("/", || get(now::page)),
    ("/incidents/{id}", || get(incident::page)),
    ("/incidents/{id}/blast", || get(blast::page)),
    ("/workloads/{namespace}/{kind}/{name}", || get(workload::page)),
    ("/changes", || get(changes::page)),
    ("/coverage", || get(coverage::page)),
    ("/preferences", || post(preferences::set)),
    (LOGIN, || get(login::again)),
    ("/logout", || post(login::leave)),
    ("/assets/{name}", || get(assets::asset)),
];

pub(super) fn routes() -> Router<Arc<Ahti>> {
    let routes = ROUTES.iter().fold(Router::new(), |router, (path, method)| router.route(path, method()));
    routes.layer(middleware::map_response(secured)).layer(CompressionLayer::new())
}

async fn secured(mut response: Response) -> Response {
    secure(&mut response);
    response
}

fn secure(response: &mut Response) {
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}
