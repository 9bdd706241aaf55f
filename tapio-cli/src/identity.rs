//! Who asks: a token that the server shows to the API server.

use std::{fs, path::Path};

use anyhow::{Context as _, anyhow};
use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{AUTHORIZATION, InvalidHeaderValue},
};
use http_body_util::Empty;
use hyper::body::Bytes;
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{Api, Client, Config, api::PostParams, client::ConfigExt as _};
use tower::{BoxError, Layer as _, ServiceExt as _, service_fn};

use crate::failure::Failure;

/// The service account of those who have no token: `deploy/server` has it.
const ACCOUNT: &str = "tapio-reader";
/// The audience of its tokens, so that they are good for nothing else.
const AUDIENCE: &str = "tapio";
/// The shortest validity that the API server gives, in seconds.
const VALID_S: i64 = 600;

/// Who asks.
#[derive(Debug)]
pub(crate) enum Identity {
    /// The value of the header `Authorization`, and whose it is.
    Known(HeaderValue, &'static str),
    /// Why there is none.
    Unknown(String),
}

impl Identity {
    fn known(value: Result<HeaderValue, InvalidHeaderValue>, whose: &'static str) -> Result<Self, Failure> {
        let mut value =
            value.map_err(|_| Failure::Usage(format!("{whose}: it cannot be sent in a header")))?;
        value.set_sensitive(true);
        Ok(Self::Known(value, whose))
    }

    fn token(token: &str, whose: &'static str) -> Result<Self, Failure> {
        Self::known(HeaderValue::from_str(&format!("Bearer {token}")), whose)
    }

    /// With the token of a file.
    pub(crate) fn of_file(file: &Path) -> Result<Self, Failure> {
        let text = fs::read_to_string(file)
            .with_context(|| format!("--token-file {} cannot be read", file.display()))?;
        match text.trim() {
            "" => Err(Failure::Usage(format!("--token-file {}: it is empty", file.display()))),
            token => Self::token(token, "--token-file"),
        }
    }

    /// With the token of a kubeconfig's user, if they have one: by a file or a plugin, too. The configuration has it from then on,
    /// so that a plugin runs once.
    pub(crate) async fn of_config(config: &mut Config) -> Result<Option<Self>, Failure> {
        let unusable = "the user of the kubeconfig has no usable token";
        // The client would take the end of its line as a part of the token.
        if let Some(file) = config.auth_info.token_file.take().filter(|_| config.auth_info.token.is_none()) {
            let text =
                fs::read_to_string(&file).with_context(|| format!("{unusable}: {file} cannot be read"))?;
            config.auth_info.token = Some(text.trim().to_owned().into());
        }
        let Some(layer) = config.auth_layer().context(unusable)? else { return Ok(None) };
        // What the layer would send to the API server comes back.
        let echo = service_fn(|request: Request<Empty<Bytes>>| async move {
            let mut response = Response::new(());
            *response.headers_mut() = request.into_parts().0.headers;
            Ok::<_, BoxError>(response)
        });
        let echoed = layer.layer(echo).oneshot(Request::new(Empty::new())).await;
        let echoed = echoed.map_err(|error| anyhow!("{unusable}: {error}"))?;
        let header = echoed.headers().get(AUTHORIZATION);
        let token = header.and_then(|header| header.to_str().ok()?.strip_prefix("Bearer "));
        // A password is not for the server.
        let Some(token) = token else { return Ok(None) };
        let identity = Self::token(token, "the user of the kubeconfig")?;
        (config.auth_info.token, config.auth_info.exec) = (Some(token.to_owned().into()), None);
        Ok(Some(identity))
    }

    /// With a token of the service account that is there for users without one, if they may create it.
    pub(crate) async fn of_account(client: &Client, namespace: &str) -> Result<Self, Failure> {
        let spec = TokenRequestSpec {
            audiences: vec![AUDIENCE.to_owned()],
            expiration_seconds: Some(VALID_S),
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let accounts = Api::<ServiceAccount>::namespaced(client.clone(), namespace);
        let made = accounts.create_token_request(ACCOUNT, &PostParams::default(), &request).await;
        let why = match made {
            Ok(made) => match made.status {
                Some(status) => return Self::token(&status.token, "the service account tapio-reader"),
                None => "the API server made none".to_owned(),
            },
            Err(kube::Error::Api(status)) if status.code == StatusCode::FORBIDDEN => {
                format!("you may not create serviceaccounts/token of {ACCOUNT} in namespace {namespace}")
            }
            Err(kube::Error::Api(status)) if status.code == StatusCode::NOT_FOUND => {
                format!("there is no service account {ACCOUNT} in namespace {namespace}: apply deploy/server")
            }
            Err(error) => error.to_string(),
        };
        Ok(Self::Unknown(format!(
            "your kubeconfig has no token, as with a client certificate, which only the API server can check; and {why}. Use a user with \
             a token, or give one by --token-file"
        )))
    }
}

#[cfg(test)]
mod tests {
    use kube::{
        client::Body,
        config::{KubeConfigOptions, Kubeconfig},
    };

    use super::*;

    async fn config(user: &str) -> Config {
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
             clusters: [{{name: k, cluster: {{server: \"https://127.0.0.1:1\"}}}}]\nusers: [{{name: u, user: {user}}}]\n"
        );
        let kubeconfig = Kubeconfig::from_yaml(&text).unwrap();
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap()
    }

    async fn header(user: &str) -> Option<String> {
        match Identity::of_config(&mut config(user).await).await.unwrap()? {
            Identity::Known(value, _) => Some(value.to_str().unwrap().to_owned()),
            Identity::Unknown(why) => panic!("{why}"),
        }
    }

    #[tokio::test]
    async fn the_token_of_a_user_comes_by_value_file_or_plugin() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        fs::write(&file, "of-file\n").unwrap();
        let credential = r#"{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"of-plugin"}}"#;
        let script = format!("echo x >> {}/runs; echo '{credential}'", directory.path().display());
        let plugin = format!(
            "{{exec: {{apiVersion: client.authentication.k8s.io/v1, command: sh, args: [-c, {script:?}], interactiveMode: Never}}}}"
        );
        for (user, expected) in [
            ("{token: abc}".to_owned(), Some("Bearer abc")),
            (format!("{{tokenFile: {:?}}}", file.display().to_string()), Some("Bearer of-file")),
            (plugin.clone(), Some("Bearer of-plugin")),
            ("{username: a, password: b}".to_owned(), None),
            ("{}".to_owned(), None),
        ] {
            assert_eq!(header(&user).await.as_deref(), expected, "{user}");
        }
        // A plugin runs once, for the server and for the API server.
        let runs = directory.path().join("runs");
        fs::remove_file(&runs).unwrap();
        let mut config = config(&plugin).await;
        Identity::of_config(&mut config).await.unwrap();
        Client::try_from(config).unwrap();
        assert_eq!(fs::read_to_string(&runs).unwrap(), "x\n");
        let failed = "{exec: {apiVersion: client.authentication.k8s.io/v1, command: \"false\", interactiveMode: Never}}";
        let error = Identity::of_config(&mut self::config(failed).await).await.unwrap_err().to_string();
        assert!(error.contains("no usable token"), "{error}");
    }

    #[tokio::test]
    async fn without_a_token_one_of_the_account_is_made() {
        let client = |status: u16, answer: &'static str| {
            let service = service_fn(move |request: Request<Body>| async move {
                assert_eq!(
                    request.uri().path(),
                    "/api/v1/namespaces/tapio/serviceaccounts/tapio-reader/token"
                );
                let bytes = request.into_body().collect_bytes().await.unwrap();
                let spec = serde_json::from_slice::<TokenRequest>(&bytes).unwrap().spec;
                assert_eq!((spec.audiences, spec.expiration_seconds), (vec!["tapio".to_owned()], Some(600)));
                Ok::<_, BoxError>(
                    Response::builder().status(status).body(Body::from(answer.as_bytes().to_vec())).unwrap(),
                )
            });
            Client::new(service, "default")
        };
        let made = r#"{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"audiences":["tapio"]},
            "status":{"token":"abc","expirationTimestamp":"2026-01-01T00:00:00Z"}}"#;
        match Identity::of_account(&client(201, made), "tapio").await.unwrap() {
            Identity::Known(value, _) => assert_eq!(value, "Bearer abc"),
            Identity::Unknown(why) => panic!("{why}"),
        }
        for (status, answer, says) in [
            (
                403,
                r#"{"kind":"Status","status":"Failure","code":403,"message":"no"}"#,
                "you may not create serviceaccounts/token",
            ),
            (404, r#"{"kind":"Status","status":"Failure","code":404,"message":"no"}"#, "apply deploy/server"),
        ] {
            match Identity::of_account(&client(status, answer), "tapio").await.unwrap() {
                Identity::Known(..) => panic!("{status}"),
                Identity::Unknown(why) => {
                    assert!(why.contains(says) && why.contains("--token-file"), "{why}")
                }
            }
        }
    }
}
