//! Checks the sinks, the address for metrics and probes, and the state directory.

use std::{fs, io, path::Path, time::Duration};

use tapio_delivery::{
    Trouble,
    otlp::{Otlp, Settings},
    polku::{self, Endpoint},
};
use tapio_service::{admin::Admin, private};

use super::{pod::Pod, report::Line};
use crate::config::{Config, Output};

/// Maximum time for a gateway or a collector to answer.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) fn examine(config: &Config, pod: Pod) -> Vec<Line> {
    let mut lines = Vec::new();
    match config.output(io::IsTerminal::is_terminal(&io::stdout())) {
        Output::Pretty => lines.push(Line::ok("standard output", "a form for people")),
        Output::Json => lines.push(Line::ok("standard output", "JSON lines")),
        Output::Auto | Output::None => {}
    }
    lines.extend(config.polku.endpoint.all().iter().map(|endpoint| gateway(&config.polku, endpoint)));
    lines.extend(collector(&config.otlp));
    if lines.is_empty() {
        lines.push(Line::failed(
            "sinks",
            "none: occurrences go nowhere",
            "give --polku=HOST:PORT, --otlp=URL or --output",
        ));
    }
    lines.push(listen(config));
    lines.push(state(config.state_dir.as_path(), pod));
    lines
}

/// Asks a gateway for its health, with the agent's certificates.
fn gateway(settings: &polku::Settings, endpoint: &Endpoint) -> Line {
    let asked = wait_for(polku::health(settings, endpoint, PATIENCE));
    let name = format!("POLKU {endpoint}");
    match asked.map_err(|error| Trouble::bare(error.to_string())).flatten() {
        Ok(polku::Health::Healthy) => Line::ok(name, "answers, and is healthy"),
        Ok(polku::Health::Unsaid) => Line::ok(name, "answers, without a health status"),
        Ok(polku::Health::Unhealthy(what)) => Line::degraded(
            name,
            format!("answers, and is not healthy: {what}"),
            "look at the gateway; until then occurrences may be dropped there",
        ),
        Err(trouble) => failed(name, trouble, "look at the log of the gateway"),
    }
}

/// Sends a collector an empty request, with the agent's headers and certificates.
fn collector(settings: &Settings) -> Option<Line> {
    let name = format!("OTLP {}", settings.endpoint.0.as_ref()?);
    let asked = match Otlp::new(settings, false) {
        Ok(otlp) => wait_for(otlp?.ask(PATIENCE)).map_err(|error| Trouble::bare(error.to_string())).flatten(),
        Err(trouble) => Err(trouble),
    };
    Some(match asked {
        Ok(()) => Line::ok(name, format!("takes logs by {}", settings.protocol)),
        Err(trouble) => failed(name, trouble, "look at the log of the collector"),
    })
}

/// Reports a connect error. `fallback` is the remedy if the error has none.
fn failed(name: String, Trouble { what, remedy, .. }: Trouble, fallback: &str) -> Line {
    Line::failed(name, what, remedy.unwrap_or_else(|| fallback.to_owned()))
}

fn wait_for<T>(asked: impl Future<Output = T>) -> io::Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(asked))
}

fn listen(config: &Config) -> Line {
    const NAME: &str = "listen";
    let Some(address) = config.listen.0.map(|listen| listen.0) else {
        return Line::ok(NAME, "off: no probes, no metrics");
    };
    match Admin::bind(address) {
        Ok(_) => Line::ok(NAME, format!("{address} is free")),
        Err(error) => {
            let io = error.downcast_ref::<io::Error>().or_else(|| error.root_cause().downcast_ref());
            let in_use = io.is_some_and(|error| error.kind() == io::ErrorKind::AddrInUse);
            let remedy = "give another address with --listen=ADDR (key `listen`), or --listen=off";
            if in_use {
                Line::degraded(
                    NAME,
                    format!("{address} is in use: by an agent that runs here, or by something else"),
                    format!("nothing, if it is the agent; else {remedy}"),
                )
            } else {
                let why = io.map_or_else(|| error.to_string(), ToString::to_string);
                Line::failed(NAME, format!("cannot listen on {address}: {why}"), remedy)
            }
        }
    }
}

/// Checks the state directory without leaving anything behind: it does not create an absent one.
fn state(directory: &Path, pod: Pod) -> Line {
    const NAME: &str = "state directory";
    let present = directory.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    let shown = directory.display();
    let shared = private::others_may_write(directory);
    match (writable(present), shared) {
        (Ok(()), Some(why)) => Line::degraded(
            NAME,
            format!("{shown}: {why}: what the agent keeps there others can remove or withhold"),
            format!(
                "chown root {shown} && chmod 700 {shown}, or give another one with --state-dir=DIR (key `state_dir`)"
            ),
        ),
        (Ok(()), None) if present == directory => Line::ok(NAME, format!("{shown} is writable")),
        (Ok(()), None) => Line::ok(NAME, format!("{shown} is not there yet and can be made")),
        (Err(error), _) => Line::degraded(
            NAME,
            format!(
                "{shown} is not writable ({error}): what a sink cannot take waits in memory alone, and what is learned ends with the agent"
            ),
            pod.or_writable(
                "make it writable, or give another one with --state-dir=DIR (key `state_dir`)",
                directory,
            ),
        ),
    }
}

/// Writes and removes a file: permissions alone do not reveal a read-only file system.
fn writable(directory: &Path) -> io::Result<()> {
    let file = directory.join(format!(".tapio-doctor-{}", std::process::id()));
    fs::File::create_new(&file)?;
    fs::remove_file(&file)
}

#[cfg(test)]
mod tests {
    use super::{super::report::State, *};

    #[test]
    fn a_state_directory_of_each_sort_and_nothing_left_in_it() {
        let dir = tempfile::tempdir().unwrap();
        assert!(state(dir.path(), Pod(false)).found.ends_with("is writable"));
        let line = state(&dir.path().join("a/b"), Pod(false));
        assert!(line.found.ends_with("can be made") && line.state == State::Ok, "{line:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let shared = dir.path().join("shared");
        fs::create_dir(&shared).unwrap();
        fs::set_permissions(&shared, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let line = state(&shared, Pod(false));
        assert!(line.found.contains("others may write to it (mode 0777)"), "{line:?}");
        assert!(
            matches!(&line.state, State::Degraded { remedy } if remedy.contains("chmod 700")),
            "{line:?}"
        );
        assert!(matches!(state(Path::new("/proc/tapio"), Pod(false)).state, State::Degraded { .. }));
        let State::Degraded { remedy } = state(Path::new("/proc/tapio"), Pod(true)).state else { panic!() };
        assert!(
            remedy.contains("DirectoryOrCreate") && remedy.contains("mountPath: /proc/tapio"),
            "{remedy}"
        );
    }

    #[test]
    fn a_gateway_that_is_not_there() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = free.local_addr().unwrap().to_string().parse().unwrap();
        drop(free);
        let line = gateway(&polku::Settings::default(), &endpoint);
        assert!(line.found.contains("refused"), "{line:?}");
        assert!(matches!(line.state, State::Failed { .. }));
    }

    #[test]
    fn a_collector_that_is_not_there() {
        use tapio_service::setting::Node as _;
        let mut settings = Settings::default();
        assert!(collector(&settings).is_none());
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        settings.assign("endpoint", &format!("http://{}", free.local_addr().unwrap())).unwrap();
        drop(free);
        let line = collector(&settings).unwrap();
        assert!(line.found.contains("refused"), "{line:?}");
        assert!(matches!(&line.state, State::Failed { remedy } if remedy.contains("--otlp=URL")), "{line:?}");
        settings.assign("endpoint", "https://collector:1").unwrap();
        settings.assign("certificate", "/nothing").unwrap();
        let line = collector(&settings).unwrap();
        assert!(line.found.contains("/nothing cannot be used"), "{line:?}");
    }

    #[test]
    fn an_address_in_use_is_reported() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut config = Config::default();
        config.listen.0 = Some(tapio_service::setting::Listen(taken.local_addr().unwrap()));
        let line = listen(&config);
        assert!(line.found.contains("is in use"), "{line:?}");
    }
}
