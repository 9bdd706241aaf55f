//! The page on which somebody signs in with a token, and what signs them out.

use askama::Template;
use axum::{
    http::{HeaderValue, header::CONTENT_SECURITY_POLICY},
    response::{AppendHeaders, IntoResponse as _, Redirect, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::digest::{SHA256, digest};

use super::{assets::STYLE, frame::shown, preferences::Preferences, secure};
use crate::ahti::auth::login;

#[derive(Template)]
#[template(path = "login.html")]
struct Page<'p> {
    preferences: Preferences,
    style: &'static str,
    action: &'static str,
    /// The page that was asked for.
    back: &'p str,
    /// What was wrong with what was sent.
    why: Option<&'p str>,
    is_private: bool,
}

/// The page. Everything is in it, as no other file is served to who is not known. Where others could read a token on the network none is
/// asked for.
pub(in crate::ahti) fn page(
    preferences: Preferences,
    back: &str,
    why: Option<&str>,
    is_private: bool,
) -> Response {
    let style = STYLE.text;
    let page = Page { preferences, style, action: login::PATH, back, why, is_private };
    let mut response = shown(&page);
    secure(&mut response);
    let hash = STANDARD.encode(digest(&SHA256, style.as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    );
    // What Base64 has is good in a header.
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// For somebody who is signed in.
pub(super) async fn again() -> Redirect {
    Redirect::to("/")
}

pub(super) async fn leave() -> Response {
    (AppendHeaders([login::ended()]), Redirect::to("/")).into_response()
}
