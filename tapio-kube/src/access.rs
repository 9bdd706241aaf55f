//! The address of the API server, and the credentials for it.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use tapio_service::setting::choices;

choices! {
    /// Whether the API server is asked.
    pub enum Mode {
        /// Where there is one.
        Auto = "auto",
        /// There has to be one.
        On = "on",
        /// Never.
        Off = "off",
    }
}

/// The path of a pod's service account token.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
const IN_CLUSTER: &str = "KUBERNETES_SERVICE_HOST";
const KUBECONFIG: &str = "KUBECONFIG";

/// The timeout for connecting, and for writing a request.
const CONNECT: Duration = Duration::from_secs(5);
/// The timeout for the next bytes. A connection that a gateway on the path has forgotten stays silent for
/// ever.
const SILENCE: Duration = Duration::from_secs(90);

/// How to reach the API server. Credentials are read each time a client is made, so that rotated ones are
/// used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// With the service account of the agent's pod.
    InCluster,
    /// With these kubeconfig files.
    Kubeconfig(Vec<PathBuf>),
}

/// Whether this program runs in a pod.
#[must_use]
pub fn in_pod() -> bool {
    std::env::var_os(IN_CLUSTER).is_some_and(|value| !value.is_empty())
}

impl Access {
    /// Finds how to reach the API server from the environment, if that is possible and wanted.
    ///
    /// # Errors
    /// `mode` requires access, and the environment has none.
    pub fn find(mode: Mode) -> anyhow::Result<Option<Self>> {
        Self::find_in(mode, |name| std::env::var_os(name), Path::new(TOKEN))
    }

    fn find_in(
        mode: Mode,
        variable: impl Fn(&str) -> Option<OsString>,
        token: &Path,
    ) -> anyhow::Result<Option<Self>> {
        if mode == Mode::Off {
            return Ok(None);
        }
        let set = |name| variable(name).filter(|value| !value.is_empty());
        let files = set(KUBECONFIG).map(|list| std::env::split_paths(&list).collect::<Vec<_>>());
        let in_pod = set(IN_CLUSTER).is_some();
        match files {
            Some(files) => Ok(Some(Self::Kubeconfig(files))),
            None if in_pod && token.is_file() => Ok(Some(Self::InCluster)),
            None if mode == Mode::Auto => Ok(None),
            None if in_pod => bail!(
                "--kubernetes=on (key `kubernetes`): this pod has no {}: set automountServiceAccountToken: true in \
                 it or in its service account",
                token.display()
            ),
            None => bail!(
                "--kubernetes=on (key `kubernetes`): no cluster is found: {IN_CLUSTER}, which pods have, and \
                 {KUBECONFIG} are not set. Set KUBECONFIG to a file that names the cluster, or give --kubernetes=off"
            ),
        }
    }

    /// A description for people.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Self::InCluster => "the pod's service account".to_owned(),
            Self::Kubeconfig(files) => {
                let files: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
                format!("{KUBECONFIG} {}", files.join(":"))
            }
        }
    }

    /// Reads the credentials and creates a client, without connecting to the server.
    ///
    /// # Errors
    /// A file cannot be read, or is invalid.
    pub async fn client(&self) -> anyhow::Result<Client> {
        let mut config = match self {
            Self::InCluster => Config::incluster().context("the pod's service account cannot be read")?,
            Self::Kubeconfig(files) => {
                let Some(merged) = merged(files)? else {
                    bail!(
                        "{}: no such file: set {KUBECONFIG} to one that is there, or unset it",
                        self.place()
                    )
                };
                Config::from_custom_kubeconfig(merged, &KubeConfigOptions::default())
                    .await
                    .with_context(|| format!("{} is not usable", self.place()))?
            }
        };
        config.connect_timeout = Some(CONNECT);
        config.write_timeout = Some(CONNECT);
        config.read_timeout = Some(SILENCE);
        // Otherwise idle time before a request would count towards the timeout.
        config.reset_reader_on_write = true;
        // The callers count and limit their requests themselves.
        config.default_retry = false;
        Client::try_from(config).context("there can be no client")
    }
}

/// Merges these files by kubectl's rules: values of an earlier file take precedence, and missing files are
/// skipped. `None` if none exists.
fn merged(files: &[PathBuf]) -> anyhow::Result<Option<Kubeconfig>> {
    let mut merged = None;
    for file in files.iter().filter(|file| !file.as_os_str().is_empty()) {
        let mut one = match Kubeconfig::read_from(file) {
            Err(KubeconfigError::ReadConfig(error, _)) if error.kind() == io::ErrorKind::NotFound => continue,
            read => read.with_context(|| format!("{KUBECONFIG}: {} cannot be read", file.display()))?,
        };
        // Some tools write the key with an empty value, which means nothing.
        one.current_context = one.current_context.filter(|context| !context.is_empty());
        merged = Some(match merged {
            None => one,
            Some(before) => Kubeconfig::merge(before, one).with_context(|| {
                format!("{KUBECONFIG}: {} does not go with the files before it", file.display())
            })?,
        });
    }
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn find(mode: Mode, set: &[(&str, &str)], token: &str) -> Result<Option<Access>, String> {
        let variable = |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into());
        Access::find_in(mode, variable, Path::new(token)).map_err(|error| error.to_string())
    }

    #[test]
    fn where_the_cluster_is() {
        let pod = (IN_CLUSTER, "10.96.0.1");
        let file = (KUBECONFIG, "/a:/b");
        let files = Access::Kubeconfig(vec!["/a".into(), "/b".into()]);
        let here = "/proc/self/stat";
        for (mode, set, token, expected) in [
            (Mode::Auto, &[][..], here, None),
            (Mode::Auto, &[pod], here, Some(Access::InCluster)),
            (Mode::Auto, &[pod], "/nothing", None),
            (Mode::Auto, &[pod, file], here, Some(files.clone())),
            (Mode::On, &[file], "/nothing", Some(files.clone())),
            (Mode::On, &[pod, (KUBECONFIG, "")], here, Some(Access::InCluster)),
            (Mode::Off, &[pod, file], here, None),
        ] {
            assert_eq!(find(mode, set, token), Ok(expected), "{mode:?} {set:?} {token}");
        }
        let error = find(Mode::On, &[], here).unwrap_err();
        assert!(error.contains("no cluster is found") && error.contains("Set KUBECONFIG"), "{error}");
        let error = find(Mode::On, &[pod], "/nothing").unwrap_err();
        assert!(error.contains("automountServiceAccountToken"), "{error}");
    }

    const CLUSTER: &str = "apiVersion: v1\nkind: Config\n\
                           clusters: [{name: k, cluster: {server: \"https://127.0.0.1:16443\"}}]\n\
                           contexts: [{name: c, context: {cluster: k, user: u}}]\n";
    const USER: &str = "apiVersion: v1\nkind: Config\nusers: [{name: u, user: {token: abc}}]\n";

    #[tokio::test]
    async fn several_files_are_one_configuration_as_kubectl_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            fs::write(dir.path().join(name), text).unwrap();
            dir.path().join(name)
        };
        let cluster = put("cluster", &format!("{CLUSTER}current-context: c\n"));
        let (user, absent) = (put("user", USER), dir.path().join("absent"));
        let other = put("other", "current-context: other\nusers: [{name: u, user: {token: weaker}}]\n");
        let none = put("none", "apiVersion: v1\nkind: Config\ncurrent-context: \"\"\npreferences: {}\n");
        let empty = put("empty", "");
        let usable = [
            vec![&cluster, &user],
            vec![&absent, &cluster, &absent, &user, &absent],
            vec![&user, &cluster, &other],
            vec![&none, &empty, &cluster, &user],
        ];
        for files in usable {
            let files: Vec<PathBuf> = files.into_iter().cloned().collect();
            let all = merged(&files).unwrap().unwrap();
            assert_eq!(all.current_context.as_deref(), Some("c"), "{files:?}");
            assert_eq!(all.auth_infos.len(), 1);
            let config = Config::from_custom_kubeconfig(all, &KubeConfigOptions::default()).await.unwrap();
            assert_eq!(config.cluster_url.to_string(), "https://127.0.0.1:16443/");
            let token = serde_json::to_value(&config.auth_info).unwrap();
            assert!(token.to_string().contains("abc"), "{token}");
        }
        let error = Access::Kubeconfig(vec![absent.clone(), absent.clone()]).client().await.err().unwrap();
        let error = format!("{error:#}");
        assert!(error.contains("no such file") && error.contains("unset it"), "{error}");
        let broken = put("broken", "clusters: 7\n");
        let error = format!("{:#}", merged(&[cluster, broken]).unwrap_err());
        assert!(error.contains("broken cannot be read"), "{error}");
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_is_named() {
        let error = Access::Kubeconfig(vec!["/nothing".into()]).client().await.err().unwrap();
        assert!(format!("{error:#}").contains("/nothing"), "{error:#}");
    }
}
