//! Every error message of every source.

use std::{fs, os::unix::ffi::OsStringExt};

use proptest::prelude::*;
use tapio_service::setting::Node;

use super::*;

/// Applies the text of a file to the defaults.
fn parse(text: &str) -> Result<Config, Error> {
    let mut config = Config::default();
    file::parse("t.yaml", text.as_bytes(), &mut config)?;
    config.check()?;
    Ok(config)
}

fn environment(variables: &[(&str, &str)]) -> Result<Config, Error> {
    Config::load(None, variables.iter().map(|(name, value)| (name.into(), value.into())), &[])
}

#[test]
fn the_default_file_is_the_defaults() {
    assert_eq!(parse(&Config::default_file()).unwrap(), Config::default());
}

#[test]
fn the_default_file_has_every_key_with_its_documentation() {
    let mut paths = Vec::new();
    Config::default().paths("", &mut paths);
    assert!(paths.len() > 30 && paths.contains(&"observer.network.rtt.floor".to_owned()), "{paths:?}");
    let page = Config::default_file();
    let mut keys: Vec<&str> = Vec::new();
    let mut found = Vec::new();
    let lines: Vec<&str> = page.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let Some((key, value)) = line.split_once(':').filter(|_| !line.trim_start().starts_with('#')) else {
            continue;
        };
        keys.truncate((key.len() - key.trim_start().len()) / 2);
        keys.push(key.trim());
        assert!(lines[at - 1].trim_start().starts_with("# "), "{line} has no documentation");
        if !value.is_empty() {
            found.push(keys.join("."));
        }
    }
    assert_eq!(found, paths);
}

#[test]
fn what_a_file_does_not_say_stays() {
    let config =
        parse("observer: {network: {connect: {ratio: 3}}}\npolku:\nlog:\n  # level: debug\n").unwrap();
    let mut expected = Config::default();
    expected.assign("observer.network.connect.ratio", "3.0").unwrap();
    assert_eq!(config, expected);
    assert_eq!(config.observer.network.connect.floor.as_ns(), 10 * MS);
    for empty in ["", "# nothing\n", "---\n", "~\n", "{}\n", "\u{feff}queue: 8192\n"] {
        assert_eq!(parse(empty), Ok(Config::default()), "{empty:?}");
    }
}

#[test]
fn observers_are_a_list_or_all() {
    for text in ["observers: network", "observers: [network]", "observers:\n- network\n"] {
        let config = parse(text).unwrap();
        assert!(config.observers.named(), "{text}");
        assert_eq!(config.observers.names(), ["network"]);
    }
    assert!(!parse("observers: all").unwrap().observers.named());
}

#[test]
fn gateways_are_a_list_or_one_or_off() {
    for text in ["[\"a:1\", \"https://b:2\"]", "a:1, https://b:2", "\"a:1,https://b:2\""] {
        let config = parse(&format!("polku:\n  endpoint: {text}\n")).unwrap();
        assert_eq!(config.polku.endpoint.to_string(), "a:1,https://b:2", "{text}");
    }
    assert_eq!(parse("polku: {endpoint: a:1}").unwrap().polku.endpoint.all().len(), 1);
    assert_eq!(parse("polku: {endpoint: off}"), Ok(Config::default()));
    let both = environment(&[("POLKU_ENDPOINT", "a:1,b:2"), ("TAPIO_POLKU_CA", "/ca")]).unwrap();
    assert_eq!((both.polku.endpoint.all().len(), both.polku.ca.to_string().as_str()), (2, "/ca"));
}

/// A file, and the message that refuses it; `...` stands for the list of all keys.
const REFUSED: &[(&str, &str)] = &[
    ("queue: 1\nfoo: 1\n", "t.yaml:2:1: unknown key `foo`: did you mean `fold`? Known: observers, "),
    ("a: b: c\n", "t.yaml:1:1: unknown key `a`. Known: observers, "),
    (
        "observer:\n  network:\n    rtt:\n      ratoi: 2\n",
        "t.yaml:4:7: observer.network.rtt: unknown key `ratoi`: did you mean `ratio`? Known: ratio, deviations, floor, ",
    ),
    (
        "observer:\n  netwrok:\n    rtt: 1\n",
        "t.yaml:2:3: observer: unknown key `netwrok`: did you mean `network`? Known: container, cpu, dns, health, link, network",
    ),
    (
        "observers: [netwrok]\n",
        "t.yaml:1:13: observers: unknown observer `netwrok`: did you mean `network`? Known: container, cpu, dns, health, link, network",
    ),
    (
        "observers:\n  - network\n  - 5\n",
        "t.yaml:3:5: observers: unknown observer `5`. Known: container, cpu, dns, health, link, network",
    ),
    (
        "observers: [network, network]\n",
        "t.yaml:1:22: observers: observer `network` is named twice: name it once",
    ),
    (
        "observers: []\n",
        "t.yaml:1:12: observers: no observer is named: expected all, or a list of some of container, cpu, dns, health, link, network",
    ),
    (
        "queue: 1\n\nobservers: {a: b}\n",
        "t.yaml:3:12: observers: found map: expected all, or a list of some of container, cpu, dns, health, link, network",
    ),
    (
        "queue: 1\n\nobservers: 5\n",
        "t.yaml:3:1: observers: found integer `5`: expected all, or a list of some of container, cpu, dns, health, link, network",
    ),
    (
        "observers: [[network]]\n",
        "t.yaml:1:13: observers: found a list or keys where one value belongs: expected all, ",
    ),
    (
        "queue: 1\n\npolku: x:1\n",
        "t.yaml:3:8: polku: found something else than keys with values: expected keys with values (endpoint, ca, cert, key, token_file)",
    ),
    (
        "- queue\n",
        "t.yaml:1:1: found something else than keys with values: expected keys with values (observers, ",
    ),
    ("queue: 0\n", "t.yaml:1:8: queue: `0` is not a whole number from 1 to 1000000"),
    ("queue: many\n", "t.yaml:1:8: queue: `many` is not a whole number from 1 to 1000000"),
    (
        "queue: [1, 2]\n",
        "t.yaml:1:8: queue: found a list or keys where one value belongs: expected a whole number from 1 to 1000000",
    ),
    ("queue:\n", "t.yaml:1:6: queue: has no value: expected a whole number from 1 to 1000000"),
    (
        "fold:\n  window: 5 parsecs\n",
        "t.yaml:2:11: fold.window: `5 parsecs` is not a duration from 100ms to 1h (units: ns, us, ms, s, m, h)",
    ),
    (
        "fold: {window: 30}\n",
        "t.yaml:1:16: fold.window: `30` is not a duration from 100ms to 1h (units: ns, us, ms, s, m, h)",
    ),
    (
        "fold: {window: 1ns}\n",
        "t.yaml:1:16: fold.window: `1ns` is not a duration from 100ms to 1h (units: ns, us, ms, s, m, h)",
    ),
    (
        "fold: {window: 20m}\n",
        "fold.max_window: 10m is shorter than fold.window, which is 20m: it must be as long",
    ),
    (
        "output: josn\n",
        "t.yaml:1:9: output: unknown value `josn`: did you mean `json`? Known: auto, json, pretty, none",
    ),
    (
        "log:\n  level: verbose\n",
        "t.yaml:2:10: log.level: unknown value `verbose`. Known: error, warn, info, debug, trace",
    ),
    (
        "polku:\n  endpoint: http://x\n",
        "t.yaml:2:13: polku.endpoint: \"http://x\" has no port: write host:port, as in ",
    ),
    ("polku: {key: /k}\n", "polku.key: needs polku.cert: give both or neither"),
    (
        "polku: {endpoint: \"http://g:1\", ca: /ca}\n",
        "polku.ca: is for TLS, and http://g:1 is without: write https://g:1, or leave polku.ca out",
    ),
    (
        "polku: {endpoint: [a:1, a:1]}\n",
        "t.yaml:1:25: polku.endpoint: endpoint `a:1` is named twice: name it once",
    ),
    (
        "otlp:\n  endpoint: collector:4318\n",
        "otlp.endpoint: collector:4318 has no scheme: write http://collector:4318, or https://collector:4318 for TLS",
    ),
    (
        "otlp: {endpoint: \"grpc://c:4317\"}\n",
        "t.yaml:1:18: otlp.endpoint: `grpc://c:4317` has a scheme that is neither http nor https: write http://host:port",
    ),
    ("otlp: {headers: secret}\n", "t.yaml:1:17: otlp.headers: pair 1 has no `=`: expected key=value"),
    (
        "listen: 9090\n",
        "t.yaml:1:9: listen: `9090` is not ADDRESS:PORT such as 127.0.0.1:9090 or [::]:9090, or off",
    ),
    ("cluster: a b\n", "t.yaml:1:10: cluster: `a b` is not a name of at most 253 bytes without spaces"),
    ("state_dir: tapio\n", "t.yaml:1:12: state_dir: `tapio` is not a path that begins with /"),
    (
        "observer: {network: {retransmit: {min_share: 5}}}\n",
        "t.yaml:1:46: observer.network.retransmit.min_share: `5` is not a share from 0% to 100%",
    ),
    ("queue: 1\n---\nqueue: 2\n", "t.yaml:3:1: only single YAML document expected but multiple found"),
    (
        "queue: 1\nlisten: off\nqueue: 2\n",
        "t.yaml:3:1: queue: this key is set a second time: keep one of the two",
    ),
    (
        "observer:\n  network:\n    rtt: {floor: 1ms, floor: 1ms}\n",
        "t.yaml:3:23: observer.network.rtt.floor: this key is set a second time: keep one of the two",
    ),
    (
        "fold:\n  window: 1s\nqueue: 1\nfold:\n  max_window: 1m\n",
        "t.yaml:4:1: fold: this key is set a second time: keep one of the two",
    ),
    ("queue: *x\n", "t.yaml:1:8: queue: reference to unknown value"),
    ("queue: \"\u{7}\"\n", "t.yaml:1:9: queue: unexpected character"),
];

#[test]
fn a_wrong_file_is_refused_with_the_place_and_what_would_be_right() {
    for (text, expected) in REFUSED {
        let error = parse(text).expect_err(text).to_string();
        assert!(error.starts_with(expected), "{text:?}\n  is      {error}\n  expected {expected}");
    }
}

#[test]
fn a_hostile_file_is_refused() {
    for text in ["[".repeat(100_000), "{a: ".repeat(100_000), format!("observer: {}", "[".repeat(500_000))] {
        assert!(parse(&text).is_err());
    }
    let mut bomb = "cluster: &a x\n".to_owned();
    for _ in 0..20_000 {
        bomb.push_str("queue: *a\n");
    }
    assert!(parse(&bomb).is_err());
}

#[test]
fn a_file_that_cannot_be_read_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let shown = |name: &str| at(name).display().to_string();
    let load = |name: &str| Config::load(Some(&at(name)), [], &[]).unwrap_err().to_string();

    let absent = load("absent");
    assert_eq!(
        absent,
        format!(
            "{}: cannot be read: No such file or directory (os error 2) (named by --config)",
            shown("absent")
        )
    );
    let variable = [("TAPIO_CONFIG".into(), at("absent").into_os_string())];
    assert!(Config::load(None, variable, &[]).unwrap_err().to_string().ends_with("(named by TAPIO_CONFIG)"));
    assert!(
        Config::load(Some(dir.path()), [], &[])
            .unwrap_err()
            .to_string()
            .contains("cannot be read: Is a directory")
    );

    fs::write(at("latin1"), b"queue: 1\ncluster: \xc3\xa4\xe4\n").unwrap();
    assert_eq!(load("latin1"), format!("{}:2:11: is not UTF-8: save the file as UTF-8", shown("latin1")));
    fs::write(at("huge"), vec![b'#'; (1 << 20) + 1]).unwrap();
    assert!(load("huge").contains("is no configuration: it has more than 1048576 bytes"));
    fs::write(at("fold"), "fold: {window: 20m}").unwrap();
    assert!(Config::of_file(&at("fold")).unwrap_err().to_string().starts_with(&shown("fold")));
    assert_eq!(
        Config::load(Some(&at("fold")), [("TAPIO_FOLD_MAX_WINDOW".into(), "1h".into())], &[]).map(|_| ()),
        Ok(())
    );
}

#[test]
fn flags_are_stronger_than_the_environment_and_that_than_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tapio.yaml");
    fs::write(&path, "queue: 1\ncluster: file\nnode_name: file\nstate_dir: /file\n").unwrap();
    let variables = [
        ("TAPIO_CLUSTER", "environment"),
        ("TAPIO_STATE_DIR", "/environment"),
        ("TAPIO_NODE_NAME", "strong"),
        ("NODE_NAME", "weak"),
        ("TAPIO_OBSERVER_NETWORK_RTT_FLOOR", "3ms"),
        ("TAPIO_LISTEN", ""),
    ];
    let variables = variables.map(|(name, value)| (name.into(), value.into()));
    let flags = [Flag { name: "--state-dir", path: "state_dir", text: "/flag".to_owned() }];
    let config = Config::load(Some(&path), variables, &flags).unwrap();
    assert_eq!(config.queue.get(), 1);
    assert_eq!(config.cluster.get(), Some("environment"));
    assert_eq!(&*config.node(), "strong");
    assert_eq!(config.state_dir.as_path(), Path::new("/flag"));
    assert_eq!(config.observer.network.rtt.floor.as_ns(), 3 * MS);
    assert_eq!(config.listen, Config::default().listen);
}

#[test]
fn the_environment_is_refused_by_the_name_of_the_variable() {
    for (name, value, expected) in [
        ("TAPIO_LISTEN", "9090", "TAPIO_LISTEN: `9090` is not ADDRESS:PORT such as "),
        ("POLKU_ENDPOINT", "x", "POLKU_ENDPOINT: \"x\" has no port: write host:port, as in "),
        (
            "TAPIO_OBSERVERS",
            "network,netwrok",
            "TAPIO_OBSERVERS: unknown observer `netwrok`: did you mean `network`?",
        ),
        (
            "TAPIO_OBSERVERS",
            "network,network",
            "TAPIO_OBSERVERS: observer `network` is named twice: name it once",
        ),
        ("TAPIO_LISTN", "x", "TAPIO_LISTN: unknown environment variable: did you mean `TAPIO_LISTEN`?"),
        ("TAPIO_XYZZY", "x", "TAPIO_XYZZY: unknown environment variable: `tapio config` lists the settings"),
    ] {
        let error = environment(&[(name, value)]).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
    let raw = OsString::from_vec(vec![0xff]);
    let error = Config::load(None, [("TAPIO_CLUSTER".into(), raw.clone())], &[]).unwrap_err();
    assert_eq!(error.to_string(), "TAPIO_CLUSTER: its value is not UTF-8");
    assert!(Config::load(None, [(raw.clone(), raw)], &[]).is_ok(), "what is not the agent's is left alone");
}

/// The order is flag, TAPIO_OTLP_*, the variable for logs, the variable for all signals, file, default. The
/// first one set counts.
#[test]
fn the_variables_of_opentelemetry_have_their_place() {
    let all = [
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://logs:4318"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318/otlp"),
        ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "2500"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "1000"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_INSECURE", "True"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=1"),
        ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "b=2"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/certificate"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/key"),
        ("OTEL_RESOURCE_ATTRIBUTES", "team=a"),
        ("OTEL_SERVICE_NAME", "agent"),
        ("OTEL_EXPORTER_OTLP_PROFILES_ENDPOINT", "of another signal"),
    ];
    let otlp = environment(&all).unwrap().otlp;
    let mut expected = otlp::Settings::default();
    for (key, text) in [
        ("endpoint", "http://logs:4318/"),
        ("timeout", "2500ms"),
        ("protocol", "grpc"),
        ("insecure", "true"),
        ("compression", "gzip"),
        ("headers", "b=2"),
        ("certificate", "/ca"),
        ("client_certificate", "/certificate"),
        ("client_key", "/key"),
        ("resource_attributes", "team=a"),
        ("service_name", "agent"),
    ] {
        expected.assign(key, text).unwrap();
    }
    assert_eq!(otlp, expected);
    let endpoint = |config: Config| config.otlp.endpoint.to_string();
    assert_eq!(endpoint(environment(&all[1..]).unwrap()), "http://all:4318/otlp/v1/logs");
    let own = [&all[..], &[("TAPIO_OTLP_ENDPOINT", "http://own:4318")]].concat();
    assert_eq!(endpoint(environment(&own).unwrap()), "http://own:4318");
    let flags = [Flag { name: "--otlp", path: "otlp.endpoint", text: "http://flag:4318".to_owned() }];
    let variables = own.iter().map(|(name, value)| (name.into(), value.into()));
    assert_eq!(endpoint(Config::load(None, variables, &flags).unwrap()), "http://flag:4318");
    for (name, value, expected) in [
        (
            "OTEL_EXPORTER_OTLP_TIMEOUT",
            "10s",
            "OTEL_EXPORTER_OTLP_TIMEOUT: `10s` is not a whole number of milli",
        ),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "collector",
            "OTEL_EXPORTER_OTLP_ENDPOINT: `collector` has neither a scheme",
        ),
        (
            "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL",
            "http/json",
            "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL: unknown value `http/json`",
        ),
        (
            "OTEL_EXPORTER_OTLP_LOGS_ENDPONT",
            "x",
            "OTEL_EXPORTER_OTLP_LOGS_ENDPONT: unknown environment variable: did you mean \
             `OTEL_EXPORTER_OTLP_LOGS_ENDPOINT`?",
        ),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/key", "otlp.client_key: needs otlp.client_certificate"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=secret%0a", "otlp.headers: the value of the header `a` has other"),
    ] {
        let error = environment(&[(name, value)]).unwrap_err().to_string();
        assert!(error.starts_with(expected) && !error.contains("secret"), "{error}");
    }
}

#[test]
fn service_links_of_kubernetes_are_no_settings() {
    let links = [
        ("TAPIO_SERVICE_HOST", "10.0.0.1"),
        ("TAPIO_SERVICE_PORT", "9090"),
        ("TAPIO_SERVICE_PORT_METRICS", "9090"),
        ("TAPIO_PORT", "tcp://10.0.0.1:9090"),
        ("TAPIO_PORT_9090_TCP", "tcp://10.0.0.1:9090"),
        ("TAPIO_AGENT_PORT_9090_TCP_ADDR", "10.0.0.1"),
    ];
    assert_eq!(environment(&links), Ok(Config::default()));
}

#[test]
fn no_two_settings_have_one_variable() {
    let mut paths = Vec::new();
    Config::default().paths("", &mut paths);
    let mut variables: Vec<String> = paths.iter().map(|path| variable(path)).collect();
    variables.sort();
    variables.dedup();
    assert_eq!(variables.len(), paths.len());
}

#[test]
fn standard_output_is_what_suits() {
    let polku = environment(&[("POLKU_ENDPOINT", "polku:50051")]).unwrap();
    assert_eq!(
        (Config::default().output(true), Config::default().output(false)),
        (Output::Pretty, Output::Json)
    );
    assert_eq!((polku.output(true), polku.output(false)), (Output::Pretty, Output::None));
    let otlp = environment(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")]).unwrap();
    assert_eq!((otlp.output(true), otlp.output(false)), (Output::Pretty, Output::None));
    let both = environment(&[("POLKU_ENDPOINT", "polku:50051"), ("TAPIO_OUTPUT", "json")]).unwrap();
    assert_eq!(both.output(true), Output::Json);
}

proptest! {
    #[test]
    fn any_file_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = file::parse("t", &bytes, &mut Config::default());
    }

    #[test]
    fn any_part_of_the_default_file_is_read_or_refused(from in 0usize..4000, to in 0usize..4000) {
        let page = Config::default_file();
        let text = page.get(from.min(to)..from.max(to).min(page.len())).unwrap_or_default();
        let _ = parse(text);
    }
}
