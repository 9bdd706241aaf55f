//! Signing in with a browser that comes without `kubectl tapio open`: a page takes a token, and a cookie has it from then on.
//!
//! The cookie is the token, sealed with a key that only this process has. Who reads it, as other servers of this host may, can do
//! nothing with it elsewhere, and nothing here once the token has ended. Nothing is kept.

use std::sync::Arc;

use axum::{
    Form,
    extract::{FromRequest as _, Request},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri,
        header::{ACCEPT, AUTHORIZATION, COOKIE, HOST, LOCATION, ORIGIN, SET_COOKIE, WWW_AUTHENTICATE},
        uri::Authority,
    },
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    error::Unspecified,
    rand::{SecureRandom as _, SystemRandom},
};
use serde::Deserialize;

use super::{Reviews, away, unaccepted, unauthorized};
use crate::ahti::{
    api::Refused,
    pages::{self, Preferences},
};

/// Where the page sends a token.
pub(in crate::ahti) const PATH: &str = "/login";
const NAME: &str = "tapio-token";
/// The longest value that browsers keep, in bytes: 4,096 with the name.
const MAX_VALUE: usize = 4_000;
/// What browsers call this host: what they send there nobody else can read.
pub(in crate::ahti) const THIS_HOST: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// A request came with the cookie.
#[derive(Clone, Copy)]
pub(in crate::ahti) struct SignedIn;

/// What seals tokens.
pub(super) struct Login {
    key: LessSafeKey,
    /// Whether the API has a certificate.
    is_tls: bool,
}

/// What a request says of the browser that it comes from.
pub(super) struct Browser {
    host: Option<Authority>,
    is_forwarded_tls: bool,
    /// Whether a page of this server sends it, and not one of another host or port.
    is_own: bool,
    only_reads: bool,
    /// Whether it has shown nothing, and so done nothing wrong.
    is_new: bool,
    /// Whether somebody looks at the answer.
    is_page: bool,
    /// The value of the cookie.
    cookie: Option<String>,
    preferences: Preferences,
    url: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sent {
    token: String,
    /// The page to go to.
    back: String,
}

impl Browser {
    pub(super) fn of(request: &Request) -> Self {
        let headers = request.headers();
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        // In HTTP/2 it is a part of the URL.
        let host = request.uri().authority().cloned();
        let host = host.or_else(|| text(HOST.as_str())?.parse().ok());
        let cookie = cookie(headers);
        let only_reads = [Method::GET, Method::HEAD].contains(request.method());
        let origin =
            text(ORIGIN.as_str()).and_then(|origin| origin.parse::<Uri>().ok()?.into_parts().authority);
        Self {
            is_forwarded_tls: text("x-forwarded-proto") == Some("https"),
            is_own: match text("sec-fetch-site") {
                Some(site) => site == "same-origin",
                // An older browser.
                None => origin.is_some() && origin == host,
            },
            only_reads,
            is_new: only_reads && cookie.is_none() && !headers.contains_key(AUTHORIZATION),
            is_page: text(ACCEPT.as_str()).is_some_and(|types| types.contains("text/html")),
            cookie,
            preferences: Preferences::of(headers),
            url: request.uri().path_and_query().map_or("/", |url| url.as_str()).to_owned(),
            host,
        }
    }

    fn is_this_host(&self) -> bool {
        self.host.as_ref().is_some_and(|host| THIS_HOST.contains(&host.host()))
    }
}

fn cookie(headers: &HeaderMap) -> Option<String> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == NAME).map(|(_, value)| value.to_owned())
}

/// Whether a request is a token that a page sends.
pub(super) fn is_sent(request: &Request) -> bool {
    request.method() == Method::POST && request.uri().path() == PATH
}

/// What takes the cookie away.
pub(in crate::ahti) fn ended() -> (HeaderName, String) {
    (SET_COOKIE, format!("{NAME}=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"))
}

impl Login {
    /// # Errors
    /// The system has no random numbers.
    pub(super) fn new(is_tls: bool) -> Result<Self, Unspecified> {
        let mut bytes = [0; 32];
        SystemRandom::new().fill(&mut bytes)?;
        Ok(Self { key: LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &bytes)?), is_tls })
    }

    fn seal(&self, token: &str) -> Result<String, Unspecified> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce)?;
        let mut text = token.as_bytes().to_vec();
        self.key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut text)?;
        Ok(URL_SAFE_NO_PAD.encode([nonce.as_slice(), text.as_slice()].concat()))
    }

    fn open(&self, sealed: &str) -> Option<String> {
        let sealed = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let (nonce, mut text) = (Nonce::assume_unique_for_key(*nonce), text.to_vec());
        let token = self.key.open_in_place(nonce, Aad::empty(), &mut text).ok()?;
        String::from_utf8(token.to_vec()).ok()
    }

    /// The token in the cookie of a request; `None` without a cookie.
    pub(super) fn token(&self, browser: &Browser) -> Result<Option<String>, Refused> {
        let Some(cookie) = &browser.cookie else { return Ok(None) };
        let token = self.open(cookie);
        let token = token.ok_or_else(|| unauthorized("the server has started anew since you signed in"))?;
        // A cookie goes with what other pages send, too.
        if !browser.only_reads && !browser.is_own {
            return Err(not_own());
        }
        Ok(Some(token))
    }

    /// Whether what the browser sends cannot be read on the network: it comes by TLS, to here or to a proxy, or stays on this host.
    fn is_private(&self, browser: &Browser) -> bool {
        self.is_tls || browser.is_forwarded_tls || browser.is_this_host()
    }

    /// The answer to who is not let in: to people, the page where they can sign in.
    pub(super) fn refuse(&self, browser: &Browser, refused: Refused) -> Response {
        if !browser.is_page || refused.0 != StatusCode::UNAUTHORIZED {
            return refused.into_response();
        }
        let why = (!browser.is_new).then_some(refused.1.as_str());
        let is_private = self.is_private(browser);
        let mut response = pages::login::page(browser.preferences, &browser.url, why, is_private);
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        response
    }

    /// The cookie for a token.
    fn cookie(&self, browser: &Browser, token: &str) -> Result<HeaderValue, Refused> {
        let sealed = self.seal(token);
        let sealed = sealed.map_err(|_| {
            Refused(StatusCode::SERVICE_UNAVAILABLE, "the system has no random numbers".to_owned())
        })?;
        if sealed.len() > MAX_VALUE {
            return Err(unauthorized("the token is too long for a cookie"));
        }
        let secure = if browser.is_this_host() { "" } else { "; Secure" };
        let text = format!("{NAME}={sealed}; Path=/; HttpOnly; SameSite=Lax{secure}");
        HeaderValue::from_str(&text)
            .map_err(|error| Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
    }
}

fn not_own() -> Refused {
    Refused(
        StatusCode::FORBIDDEN,
        "only a page of this server itself may send something with its cookie".to_owned(),
    )
}

impl Reviews {
    /// Takes a token that the page sends, and gives a cookie for it.
    pub(super) async fn sign_in(self: &Arc<Self>, request: Request) -> Response {
        let mut browser = Browser::of(&request);
        let sent = Form::<Sent>::from_request(request, &()).await;
        let Ok(Form(Sent { token, back })) = sent else {
            return self.login.refuse(&browser, unauthorized("there is no token"));
        };
        browser.url = pages::own(&back).to_owned();
        match self.signed_in(&browser, token.trim()).await {
            Ok(cookie) => {
                let mut response = (StatusCode::SEE_OTHER, [(LOCATION, browser.url)]).into_response();
                response.headers_mut().insert(SET_COOKIE, cookie);
                response
            }
            Err(refused) => self.login.refuse(&browser, refused),
        }
    }

    async fn signed_in(self: &Arc<Self>, browser: &Browser, token: &str) -> Result<HeaderValue, Refused> {
        if token.is_empty() {
            return Err(unauthorized("there is no token"));
        }
        if !browser.is_own {
            return Err(not_own());
        }
        if !self.login.is_private(browser) {
            let what = "this address is plain HTTP, where others can read a token: renew the one that you sent, and open https://";
            return Err(Refused(StatusCode::FORBIDDEN, what.to_owned()));
        }
        let cookie = self.login.cookie(browser, token)?;
        match self.user(token).await {
            Ok(Some(_)) => Ok(cookie),
            Ok(None) => Err(unaccepted()),
            Err(fault) => Err(away(&fault)),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn browser(method: &str, url: &str, headers: &[(&str, &str)]) -> Browser {
        let builder = Request::builder().method(method).uri(url);
        let builder = headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value));
        Browser::of(&builder.body(Body::empty()).unwrap())
    }

    #[test]
    fn a_token_is_in_a_cookie_that_only_this_process_opens() {
        let (login, another) = (Login::new(false).unwrap(), Login::new(false).unwrap());
        let here = browser("POST", "/login", &[("host", "127.0.0.1:8080")]);
        let text = login.cookie(&here, "abc.def").unwrap();
        let text = text.to_str().unwrap();
        assert!(text.ends_with("; Path=/; HttpOnly; SameSite=Lax") && !text.contains("abc"), "{text}");
        let pair = text.split(';').next().unwrap();
        let returned = browser("GET", "/", &[("cookie", "a=b"), ("cookie", &format!("c=d; {pair}"))]);
        assert_eq!(login.token(&returned).unwrap().as_deref(), Some("abc.def"));
        for cookie in [pair[..pair.len() - 2].to_owned(), format!("{NAME}=abc"), format!("{NAME}=")] {
            assert!(login.token(&browser("GET", "/", &[("cookie", &cookie)])).is_err(), "{cookie}");
        }
        assert_eq!(another.token(&returned).unwrap_err().0, StatusCode::UNAUTHORIZED);
        assert_eq!(login.token(&browser("GET", "/", &[("cookie", "a=b")])).unwrap(), None);

        let elsewhere = browser("POST", "/login", &[("host", "tapio.example")]);
        assert!(login.cookie(&elsewhere, "abc").unwrap().to_str().unwrap().ends_with("; Secure"));
        assert!(login.cookie(&here, &"a".repeat(2_900)).is_ok());
        assert!(login.cookie(&here, &"a".repeat(3_000)).unwrap_err().1.contains("too long for a cookie"));
    }

    #[test]
    fn with_the_cookie_only_own_pages_send_something() {
        let login = Login::new(false).unwrap();
        let cookie = format!("{NAME}={}", login.seal("abc.def").unwrap());
        let host = ("host", "127.0.0.1:8080");
        let token = |method: &str, header: (&str, &str)| {
            login.token(&browser(method, "/preferences", &[host, ("cookie", &cookie), header]))
        };
        for own in [("sec-fetch-site", "same-origin"), ("origin", "http://127.0.0.1:8080")] {
            assert!(token("POST", own).is_ok(), "{own:?}");
        }
        for other in [
            ("accept", "text/html"),
            ("sec-fetch-site", "same-site"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "none"),
            // Another port is another server.
            ("origin", "http://127.0.0.1:9090"),
            ("origin", "http://evil.example"),
            ("origin", "null"),
        ] {
            for method in ["POST", "PUT", "DELETE"] {
                assert_eq!(token(method, other).unwrap_err().0, StatusCode::FORBIDDEN, "{other:?}");
            }
            assert!(token("GET", other).is_ok(), "{other:?}");
        }
        // In HTTP/2 the host is a part of the URL.
        let url = "https://tapio.example/preferences";
        let of = |origin| browser("POST", url, &[("origin", origin)]).is_own;
        assert!(of("https://tapio.example") && !of("https://other.example"));
    }

    #[test]
    fn a_token_is_asked_for_where_nobody_else_can_read_it() {
        for (is_tls, header, is_private) in [
            (false, ("host", "127.0.0.1:8080"), true),
            (false, ("host", "localhost"), true),
            (false, ("host", "[::1]:8080"), true),
            (false, ("host", "tapio.example"), false),
            (false, ("host", "localhost.evil.example"), false),
            (false, ("x-forwarded-proto", "https"), true),
            (false, ("x-forwarded-proto", "http"), false),
            (true, ("host", "tapio.example"), true),
        ] {
            let login = Login::new(is_tls).unwrap();
            assert_eq!(login.is_private(&browser("GET", "/", &[header])), is_private, "{header:?}");
        }
    }
}
