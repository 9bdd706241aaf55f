//! Where the API server is, and what it takes to speak to it.

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

/// Where a pod finds its token.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
const IN_CLUSTER: &str = "KUBERNETES_SERVICE_HOST";
const KUBECONFIG: &str = "KUBECONFIG";

/// For a connection, and for writing a request.
const CONNECT: Duration = Duration::from_secs(5);
/// For the next bytes: a connection that a gateway on the way has forgotten brings nothing, for ever.
const SILENCE: Duration = Duration::from_secs(90);

/// A way to the API server. What it takes is read anew each time a client is made, so that what was rotated is seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// As the pod that the agent runs in.
    InCluster,
    /// By these files.
    Kubeconfig(Vec<PathBuf>),
}

/// Whether this is a pod.
#[must_use]
pub fn in_pod() -> bool {
    std::env::var_os(IN_CLUSTER).is_some_and(|value| !value.is_empty())
}

impl Access {
    /// The way that the environment shows, if there is one and it is wanted.
    ///
    /// # Errors
    /// There has to be one and there is none.
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

    /// What it goes by, for people.
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

    /// Reads what it takes and makes a client, without speaking to the server yet.
    ///
    /// # Errors
    /// A file that cannot be read, or is not what it should be.
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
        // Else what it was idle before a request would count.
        config.reset_reader_on_write = true;
        // What is sent is counted and limited where it is sent.
        config.default_retry = false;
        Client::try_from(config).context("there can be no client")
    }
}

/// All of these files in one, by the rules of kubectl: what an earlier one says counts, and one that is not there is passed
/// over. `None` where none is.
fn merged(files: &[PathBuf]) -> anyhow::Result<Option<Kubeconfig>> {
    let mut merged = None;
    for file in files.iter().filter(|file| !file.as_os_str().is_empty()) {
        let mut one = match Kubeconfig::read_from(file) {
            Err(KubeconfigError::ReadConfig(error, _)) if error.kind() == io::ErrorKind::NotFound => continue,
            read => read.with_context(|| format!("{KUBECONFIG}: {} cannot be read", file.display()))?,
        };
        // Tools write it without a value, too, which says nothing.
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
