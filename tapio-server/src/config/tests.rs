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
