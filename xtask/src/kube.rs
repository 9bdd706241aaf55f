//! `cargo xtask kube`: a real Kubernetes on this machine, built from pinned Go modules.
//!
//! - `build [PROGRAM...]`: builds its programs if they are missing or of another version.
//! - `apiserver up|down`: an API server with its etcd, for objects, tokens and permissions; any number of
//!   them.
//! - `cluster up|down|exec|load|stop|start`: a complete cluster with one node in separate namespaces; one at a time, as
//!   root.
//! - `image`: a container image from a directory, without a registry.

mod apiserver;
mod certificate;
mod cluster;
mod image;
mod program;
mod programs;

use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use self::apiserver::ApiServer;
use crate::{go, machine};

/// The programs of an API server.
const APISERVER: &[&str] = &["etcd", "kube-apiserver", "kubectl"];

const USAGE: &str = "kube build [PROGRAM...]\n\
                     kube apiserver up [DIRECTORY], which prints an admin's kubeconfig | down DIRECTORY|KUBECONFIG\n\
                     kube cluster up | down | exec COMMAND... | load ARCHIVE... | stop PROGRAM | start PROGRAM\n\
                     kube image NAME:TAG DIRECTORY COMMAND... >ARCHIVE";

/// `kube build|apiserver|cluster|image ...`
pub(crate) fn task(arguments: &[String]) -> Result<()> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["build", wanted @ ..] => programs::build(wanted).map(drop),
        ["apiserver", "up"] => apiserver_up(None),
        ["apiserver", "up", directory] => apiserver_up(Some(Path::new(directory))),
        ["apiserver", "down", place] => {
            let place = Path::new(place);
            let directory = place.parent().filter(|_| place.ends_with("admin.kubeconfig")).unwrap_or(place);
            apiserver::remove(directory)
        }
        ["cluster", "up"] => cluster::up(),
        ["cluster", "down"] => cluster::down(),
        ["cluster", "exec", command @ ..] if !command.is_empty() => cluster::exec(command),
        ["cluster", "load", archives @ ..] if !archives.is_empty() => cluster::load(archives),
        ["cluster", "stop", name] => cluster::stop(name),
        ["cluster", "start", name] => cluster::start_again(name),
        // Only `cluster up` runs this, in the node's namespaces.
        ["cluster", "node", directory] => cluster::node(Path::new(directory)),
        ["image", name, root, command @ ..] if !command.is_empty() => {
            image::write(name, Path::new(root), command, &mut std::io::stdout().lock())
        }
        _ => bail!("kube takes one of\n{USAGE}"),
    }
}

/// Builds the programs for tests/kubernetes and for a cluster. A machine without Go skips those tests with a
/// message.
pub(crate) fn for_tests() -> Result<()> {
    match programs::build(&[]) {
        Err(error) if !go::is_there() => {
            eprintln!("skipped: {error:#}");
            Ok(())
        }
        built => built.map(drop),
    }
}

/// The reason if this machine cannot have a cluster.
pub(crate) fn cluster_hindrance() -> Option<String> {
    if !go::is_there() {
        return Some("a cluster is built with Go 1.26, which is not there (https://go.dev/dl)".to_owned());
    }
    cluster::root().err().map(|error| error.to_string())
}

/// Starts a cluster with the image of an archive and runs `run`. A cluster that was already up stays up.
pub(crate) fn in_cluster<T>(archive: &Path, run: impl FnOnce() -> Result<T>) -> Result<T> {
    let was_up = cluster::is_up();
    cluster::up()?;
    let ran = cluster::load(&[&archive.to_string_lossy()]).and_then(|()| run());
    if !was_up {
        cluster::down()?;
    }
    ran
}

/// Whether a cluster is up.
pub(crate) fn cluster_is_up() -> bool {
    cluster::is_up()
}

/// Starts the cluster unless it is up.
pub(crate) fn cluster_up() -> Result<()> {
    cluster::up()
}

pub(crate) fn cluster_down() -> Result<()> {
    cluster::down()
}

/// Imports the image of an archive into the cluster.
pub(crate) fn cluster_load(archive: &Path) -> Result<()> {
    cluster::load(&[&archive.to_string_lossy()])
}

/// A command in the node's namespaces, as the cluster's admin.
pub(crate) fn node_command(command: &[&str]) -> Result<Command> {
    cluster::inside(command)
}

/// Stops a program of the node.
pub(crate) fn cluster_stop(name: &str) -> Result<()> {
    cluster::stop(name)
}

/// Starts a program of the node that was stopped.
pub(crate) fn cluster_start(name: &str) -> Result<()> {
    cluster::start_again(name)
}

/// The kubeconfig of the cluster's admin.
pub(crate) fn kubeconfig() -> PathBuf {
    cluster::admin()
}

/// The kubectl of the cluster's version, as its admin.
pub(crate) fn kubectl() -> Result<Command> {
    let mut kubectl = Command::new(programs_directory()?.join("kubectl"));
    kubectl.env("KUBECONFIG", kubeconfig());
    Ok(kubectl)
}

/// Writes a container image with a directory as its root and this command.
pub(crate) fn write_image(name: &str, root: &Path, command: &[&str], out: &mut impl Write) -> Result<()> {
    image::write(name, root, command, out)
}

fn apiserver_up(directory: Option<&Path>) -> Result<()> {
    let programs = programs::build(APISERVER)?;
    let directory = match directory {
        Some(named) => std::path::absolute(named).context("there is no such directory")?,
        None => env::temp_dir().join(format!("tapio-apiserver-{}", std::process::id())),
    };
    let server = ApiServer::start(&programs, &directory, "127.0.0.1", 0)?;
    println!("{}", server.admin().display());
    Ok(())
}

/// The directory of the programs: `KUBEBUILDER_ASSETS`, as in tests of other projects, or the cache.
fn programs_directory() -> Result<PathBuf> {
    match env::var_os("KUBEBUILDER_ASSETS").filter(|value| !value.is_empty()) {
        Some(named) => std::path::absolute(PathBuf::from(named)).context("KUBEBUILDER_ASSETS is no path"),
        None => machine::tool_root("kube"),
    }
}
