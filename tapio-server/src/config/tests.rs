use std::fs;

use super::*;

fn load(file: Option<&Path>, variables: &[(&str, &str)], flags: &[Flag]) -> Result<Config, Error> {
    Config::load(file, variables.iter().map(|(name, value)| (name.into(), value.into())), flags)
}

fn refused(text: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("t.yaml");
    fs::write(&file, text).unwrap();
    let error = Config::of_file(&file).unwrap_err().to_string();
    error.replace(&format!("{}/", directory.path().display()), "")
}

#[test]
fn the_default_file_is_valid_and_says_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("default.yaml");
    fs::write(&file, Config::default_file()).unwrap();
    assert_eq!(Config::of_file(&file).unwrap(), Config::default());
    let printed = Config::default_file();
    for line in ["roles: all", "  listen: 0.0.0.0:50051", "  max_age: 336h", "listen: 127.0.0.1:9091"] {
        assert!(printed.lines().any(|it| it == line), "{line}: {printed}");
    }
}

#[test]
fn flags_before_environment_before_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("t.yaml");
    fs::write(&file, "cluster: file\nstate_dir: /file\npolku:\n  listen: 127.0.0.1:1\n").unwrap();
    let variables = [("TAPIO_SERVER_CLUSTER", "environment"), ("TAPIO_SERVER_STATE_DIR", "/environment")];
    let flags = [Flag { name: "--state-dir", path: "state_dir", text: "/flag".to_owned() }];
    let config = load(Some(&file), &variables, &flags).unwrap();
    assert_eq!(config.cluster.get(), Some("environment"));
    assert_eq!(config.state_dir.as_path(), Path::new("/flag"));
    assert_eq!(config.polku.listen.to_string(), "127.0.0.1:1");
    let named = [("TAPIO_SERVER_CONFIG", file.to_str().unwrap())];
    assert_eq!(load(None, &named, &[]).unwrap().cluster.get(), Some("file"));
}

#[test]
fn an_error_names_file_line_and_key() {
    for (text, expected) in [
        ("clustr: a\n", "t.yaml:1:1: unknown key `clustr`: did you mean `cluster`?"),
        ("roles: [polku, ahtu]\n", "t.yaml:1:16: roles: unknown role `ahtu`"),
        ("roles: [polku, polku]\n", "t.yaml:1:16: roles: role `polku` is named twice: name it once"),
        (
            "polku:\n  listen: 50051\n",
            "t.yaml:2:11: polku.listen: `50051` is not ADDRESS:PORT such as 127.0.0.1:9090",
        ),
        (
            "journal:\n  max_age: 14d\n",
            "t.yaml:2:12: journal.max_age: `14d` is not a duration from 1h to 8784h",
        ),
        (
            "ahti:\n  api: 0.0.0.0:8080\n  auth: none\n",
            "t.yaml: ahti.auth: `none` lets everybody ask who reaches ahti.api, and that is 0.0.0.0:8080: set ahti.api to an address of \
             this host, such as 127.0.0.1:8080, or ahti.auth to kubernetes",
        ),
        ("ahti:\n  auth_cache: 61s\n", "t.yaml:2:15: ahti.auth_cache: `61s` is not a duration from 0"),
        ("routes: [{to: a}]\n", "t.yaml: routes[0].to: unknown sink `a`. Known: "),
        (
            "routes: [{to: loq}]\nsinks: {log: {stdout: true}}\n",
            "t.yaml: routes[0].to: unknown sink `loq`: did you mean `log`? Known: log",
        ),
        (
            "routes: [{to: ahti}]\n",
            "t.yaml: routes[0].to: ahti takes all facts, without a route: name one of `sinks`",
        ),
        ("routes: [{match: {type: a}}]\n", "t.yaml: routes[0].to: is not given: name one of `sinks`"),
        ("routes: [{mach: {}}]\n", "t.yaml:1:11: routes: unknown key `mach`: did you mean `match`?"),
        (
            "routes: [{match: {severity: [error, bad]}}]\n",
            "t.yaml:1:37: routes.match.severity: unknown severity `bad`. Known: debug, info, warning, error, critical",
        ),
        (
            "routes: [{match: {type: [a b]}}]\n",
            "t.yaml:1:26: routes.match.type: `a b` is not all, or a list of texts",
        ),
        (
            "sinks: {A: {stdout: true}}\n",
            "t.yaml:1:9: sinks: `A` is no name: use at most 32 lower-case letters",
        ),
        (
            "sinks: {a: {}}\n",
            "t.yaml: sinks.a: goes nowhere: give polku.endpoint, otlp.endpoint or stdout: true",
        ),
        (
            "sinks: {a: {stdout: true, otlp: {endpoint: http://c:4318}}}\n",
            "t.yaml: sinks.a: has otlp and stdout: give one",
        ),
        ("sinks: {a: {stdout: true}}\n", "t.yaml: sinks.a: no route leads to it"),
        (
            "routes: [{to: a}]\nsinks: {a: {polku: {endpoint: https://a:1, key: /k}}}\n",
            "t.yaml: sinks.a.polku.key: needs sinks.a.polku.cert: give both or neither",
        ),
        (
            "routes: [{to: a}]\nsinks: {a: {otlp: {endpoint: c:1}}}\n",
            "t.yaml: sinks.a.otlp.endpoint: c:1 has no scheme",
        ),
        (
            "routes: [{to: a}, {to: b}]\nsinks: {a: {stdout: true}, b: {stdout: true}}\n",
            "t.yaml: sinks.b.stdout: there is one standard output",
        ),
        (
            "roles: ahti\nroutes: [{to: a}]\nsinks: {a: {stdout: true}}\n",
            "t.yaml: sinks: needs the role polku",
        ),
        (
            "notify: {a: {certainty: likely}}\n",
            "t.yaml: notify.a: goes nowhere: give webhook.url, slack.token_file, slack.url_file, pagerduty.key_file, alertmanager.url",
        ),
        (
            "notify: {a: {webhook: {url: http://h}, alertmanager: {url: http://h}}}\n",
            "t.yaml: notify.a: has webhook and alertmanager: give one",
        ),
        (
            "notify: {a: {webhook: {url: h/x}}}\n",
            "t.yaml:1:29: notify.webhook.url: `h/x` is not an address such as https://HOST:PORT/PATH",
        ),
        (
            "notify: {a: {slack: {token_file: /t}}}\n",
            "t.yaml: notify.a.slack.channel: is needed with token_file: give the id of a channel",
        ),
        (
            "notify: {a: {slack: {token_file: /t, channel: C1, url_file: /u}}}\n",
            "t.yaml: notify.a.slack: has token_file and url_file: give one",
        ),
        (
            "notify: {a: {alertmanager: {url: http://h, token_file: /t}}}\n",
            "t.yaml: notify.a.alertmanager.token_file: is never sent without TLS: write https:// in its url",
        ),
        (
            "roles: polku\nnotify: {a: {webhook: {url: http://h}}}\n",
            "t.yaml: notify: needs the role ahti, which knows of incidents",
        ),
        (
            "portti:\n  lease: a\n",
            "t.yaml: portti.lease: needs portti.polku.endpoint: replicas with a journal each would each know a part only",
        ),
        (
            "portti:\n  polku:\n    endpoint: https://a:1\n    key: /k\n",
            "t.yaml: portti.polku.key: needs portti.polku.cert: give both or neither",
        ),
        (
            "polku:\n  cert: /c\n",
            "t.yaml: polku.cert: needs polku.key (--polku-key=FILE): give both or neither",
        ),
        ("polku:\n  client_ca: /c\n", "t.yaml: polku.client_ca: needs polku.cert and polku.key"),
    ] {
        let error = refused(text);
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn the_environment_is_that_of_the_server() {
    let refused = |name| load(None, &[(name, "x")], &[]).unwrap_err().to_string();
    assert_eq!(
        refused("TAPIO_SERVER_CLUSTR"),
        "TAPIO_SERVER_CLUSTR: unknown environment variable: did you mean `TAPIO_SERVER_CLUSTER`?"
    );
    assert!(refused("TAPIO_SERVER_NONSENSICAL").contains("`tapio-server config` lists the settings"));
    // Kubernetes sets these for a Service with the server's name; the agent's are not its business.
    let others = [("TAPIO_SERVER_PORT", "tcp://10.0.0.1:50051"), ("TAPIO_STATE_DIR", "/agent")];
    assert_eq!(load(None, &others, &[]).unwrap(), Config::default());
}
