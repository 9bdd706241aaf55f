//! Who asks: the API server says whose token it is (TokenReview), and what they may read (SubjectAccessReview).

pub(super) mod login;
mod remembered;
mod viewer;

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::bail;
use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header::AUTHORIZATION},
    middleware::Next,
    response::Response,
};
use kube::Client;
use ring::{hmac, rand::SystemRandom};
use tapio_kube::{Access, Fault, Mode, Permission, User};
use tokio::sync::Semaphore;
use tonic::Status;

pub(super) use self::viewer::Viewer;
use self::{
    login::{Browser, Login, SignedIn},
    remembered::Remembered,
};
use super::{api::Refused, grpc, settings};

/// The audience of tokens that are for Tapio alone; those for the API server are good as well, as kubectl has them.
const AUDIENCE: &str = "tapio";
/// The longest token, in bytes.
const MAX_TOKEN: usize = 16 << 10;
/// Tokens and rights that are remembered.
const TOKENS: NonZeroUsize = NonZeroUsize::new(1_024).unwrap();
const RIGHTS: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();
/// Questions to the API server at once.
const AT_ONCE: usize = 16;
/// A refusal is remembered for so long at most: who has just got a right tries again.
const REFUSED: Duration = Duration::from_secs(10);
/// That there is no answer is remembered for so long.
const AWAY: Duration = Duration::from_secs(1);

/// Who is let in.
#[derive(Clone)]
pub(super) enum Auth {
    /// Everybody who reaches this host.
    Open,
    /// Users of the cluster.
    Kubernetes(Arc<Reviews>),
}

/// What the API server says of users, as long as it is remembered.
pub(super) struct Reviews {
    access: Access,
    client: Mutex<Option<Client>>,
    at_once: Semaphore,
    /// Tokens are not kept, only their hashes with this key, which nobody else has.
    key: hmac::Key,
    login: Login,
    lasts: Duration,
    users: Remembered<Vec<u8>, Result<Option<Arc<User>>, Fault>>,
    rights: Remembered<(Arc<User>, Permission), Result<bool, Fault>>,
}

impl Auth {
    /// Users of the cluster that this server runs in, or that KUBECONFIG names.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn of(settings: &super::Settings) -> anyhow::Result<Self> {
        if settings.auth == settings::Auth::None || settings.api.0.is_none() {
            return Ok(Self::Open);
        }
        let Some(access) = Access::find(Mode::Auto)? else {
            bail!(
                "ahti.auth: there is no cluster whose users may ask: this is no pod with a service account, and KUBECONFIG is not \
                 set. Set it, or let everybody on this host ask: --ahti-auth=none"
            )
        };
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        let (Ok(key), Ok(login)) = (key, Login::new(settings.cert.0.is_some())) else {
            bail!("ahti.auth: the system has no random numbers")
        };
        Ok(Self::Kubernetes(Arc::new(Reviews {
            access,
            client: Mutex::default(),
            at_once: Semaphore::new(AT_ONCE),
            key,
            login,
            lasts: settings.auth_cache.get(),
            users: Remembered::new(TOKENS),
            rights: Remembered::new(RIGHTS),
        })))
    }
}

/// Lets only those through who are known.
pub(super) async fn authenticated(State(auth): State<Auth>, mut request: Request, next: Next) -> Response {
    let Auth::Kubernetes(reviews) = auth else {
        request.extensions_mut().insert(Viewer::Everybody);
        return next.run(request).await;
    };
    if login::is_sent(&request) {
        return reviews.sign_in(request).await;
    }
    let browser = Browser::of(&request);
    match reviews.viewer(request.headers(), &browser).await {
        Ok((viewer, signed_in)) => {
            request.extensions_mut().insert(viewer);
            if let Some(signed_in) = signed_in {
                request.extensions_mut().insert(signed_in);
            }
            next.run(request).await
        }
        Err(refused) if grpc::is_call(request.headers()) => Status::from(refused).into_http(),
        Err(refused) => reviews.login.refuse(&browser, refused),
    }
}

fn bearer(headers: &HeaderMap) -> Result<&str, Refused> {
    let none = || unauthorized("there is no token: send `Authorization: Bearer TOKEN`");
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(none()) };
    let (scheme, token) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(none)?;
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Err(none());
    }
    if token.len() > MAX_TOKEN {
        return Err(unauthorized("the token is longer than 16 KiB"));
    }
    Ok(token)
}

fn unauthorized(what: &str) -> Refused {
    let remedy = "kubectl tapio sends that of your kubeconfig, and kubectl tapio open shows the pages with it; `kubectl create token NAME -n NAMESPACE` makes one of a service account";
    Refused(StatusCode::UNAUTHORIZED, format!("{what}; {remedy}"))
}

fn unaccepted() -> Refused {
    unauthorized(
        "the API server does not accept this token: it has expired, or is another cluster's, or for others",
    )
}

/// The API server does not say who asks, or what they may.
fn away(fault: &Fault) -> Refused {
    let why = match fault.code {
        Some(403) => {
            "the API server does not let this server ask: bind the ClusterRole tapio-auth to its service account (deploy/server)"
                .to_owned()
        }
        _ => fault.to_string(),
    };
    Refused(
        StatusCode::SERVICE_UNAVAILABLE,
        format!("who asks, and what they may read, cannot be checked now: {why}"),
    )
}

impl Reviews {
    /// Who sends a request, by a header or by the cookie.
    async fn viewer(
        self: &Arc<Self>,
        headers: &HeaderMap,
        browser: &Browser,
    ) -> Result<(Viewer, Option<SignedIn>), Refused> {
        let of_cookie = match headers.contains_key(AUTHORIZATION) {
            true => None,
            false => self.login.token(browser)?,
        };
        let token = match &of_cookie {
            Some(token) => token,
            None => bearer(headers)?,
        };
        let user = self.user(token).await.map_err(|fault| away(&fault))?.ok_or_else(unaccepted)?;
        Ok((Viewer::User(Arc::clone(self), user), of_cookie.map(|_| SignedIn)))
    }

    /// Whose token it is; `None` if the API server does not accept it.
    async fn user(self: &Arc<Self>, token: &str) -> Result<Option<Arc<User>>, Fault> {
        let key = hmac::sign(&self.key, token.as_bytes()).as_ref().to_vec();
        let lasts = |answer: &Result<Option<Arc<User>>, Fault>| match answer {
            Ok(Some(_)) => self.lasts,
            Ok(None) => self.lasts.min(REFUSED),
            Err(_) => self.lasts.min(AWAY),
        };
        let ask = || {
            let (reviews, token) = (Arc::clone(self), token.to_owned());
            async move {
                let client = reviews.client().await?;
                let _turn = reviews.at_once.acquire().await;
                let user = match tapio_kube::user_of(&client, &token, None).await {
                    Ok(None) => tapio_kube::user_of(&client, &token, Some(AUDIENCE)).await,
                    answered => answered,
                };
                reviews.noted(user.map(|user| user.map(Arc::new)))
            }
        };
        self.users.get(key, lasts, ask).await
    }

    /// Whether a user has a permission.
    async fn allows(self: &Arc<Self>, user: &Arc<User>, permission: Permission) -> Result<bool, Fault> {
        let lasts = |answer: &Result<bool, Fault>| match answer {
            Ok(true) => self.lasts,
            Ok(false) => self.lasts.min(REFUSED),
            Err(_) => self.lasts.min(AWAY),
        };
        let ask = || {
            let (reviews, user, permission) = (Arc::clone(self), Arc::clone(user), permission.clone());
            async move {
                let client = reviews.client().await?;
                let _turn = reviews.at_once.acquire().await;
                reviews.noted(tapio_kube::allows(&client, &user, &permission).await)
            }
        };
        self.rights.get((Arc::clone(user), permission.clone()), lasts, ask).await
    }

    async fn client(&self) -> Result<Client, Fault> {
        let known = self.client.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(client) = known {
            return Ok(client);
        }
        let client = self.access.client().await.map_err(|error| Fault::of_access(&error))?;
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(client.clone());
        Ok(client)
    }

    /// Without an answer the credentials are read again before the next question.
    fn noted<T>(&self, answer: Result<T, Fault>) -> Result<T, Fault> {
        if let Err(fault) = &answer {
            tracing::warn!(%fault, "ahti: the API server does not say who asks, or what they may read");
            *self.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        answer
    }
}
