//! A browser. One at a time, since each takes a CPU.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use fantoccini::{
    Client, ClientBuilder,
    actions::{InputSource as _, KeyAction, KeyActions},
    wd::WebDriverCompatibleCommand,
};
use hyper_util::client::legacy::connect::HttpConnector;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{axe, toolchain};

static ONE: Semaphore = Semaphore::const_new(1);

/// Rules of WCAG 2.2, levels A and AA.
const TAGS: [&str; 6] = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];

pub(crate) const TAB: &str = "\u{e004}";
pub(crate) const ENTER: &str = "\u{e007}";
pub(crate) const ESCAPE: &str = "\u{e00c}";

/// A browser with one window.
pub(crate) struct Browser {
    pub(crate) client: Client,
    axe: String,
    _driver: Driver,
    _permit: SemaphorePermit<'static>,
}

/// chromedriver, with what it has started.
struct Driver {
    child: Child,
    /// What the browser writes.
    profile: TempDir,
}

/// How a page is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) is_dark: bool,
}

pub(crate) const PHONE: View = View { width: 360, height: 740, is_dark: false };
pub(crate) const DESK: View = View { width: 1280, height: 800, is_dark: false };

/// Starts a browser, or prints why the test cannot run here and ends it.
macro_rules! browser {
    ($test:literal) => {
        match $crate::browser::Browser::start().await {
            Ok(browser) => browser,
            Err(reason) => return println!("SKIP {}: {reason}", $test),
        }
    };
}
pub(crate) use browser;

/// A command of the DevTools protocol.
#[derive(Debug)]
struct DevTools(Value);

impl WebDriverCompatibleCommand for DevTools {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/goog/cdp/execute", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(self.0.to_string()))
    }
}

/// What the browser says on its console.
#[derive(Debug)]
struct Log;

impl WebDriverCompatibleCommand for Log {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/se/log", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(json!({ "type": "browser" }).to_string()))
    }
}

impl Browser {
    /// Starts one, or says what is missing.
    pub(crate) async fn start() -> Result<Self, String> {
        let axe = script()?;
        for program in ["chromium", "chromedriver"] {
            found(program)?;
        }
        let permit = ONE.acquire().await.unwrap();
        let (driver, port) = Driver::start();
        let profile = driver.profile.path().display();
        let capabilities = json!({
            "goog:chromeOptions": { "args": [
                "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--force-color-profile=srgb", "--hide-scrollbars", format!("--user-data-dir={profile}"),
            ] },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let Value::Object(capabilities) = capabilities else { unreachable!() };
        let mut builder = ClientBuilder::new(HttpConnector::new());
        builder.capabilities(capabilities.into_iter().collect());
        let client = builder.connect(&format!("http://127.0.0.1:{port}")).await.unwrap();
        Ok(Self { client, axe, _driver: driver, _permit: permit })
    }

    pub(crate) async fn devtools(&self, command: &str, parameters: Value) {
        let command = DevTools(json!({ "cmd": command, "params": parameters }));
        self.client.issue_cmd(command).await.unwrap();
    }

    pub(crate) async fn view(&self, view: View) {
        let View { width, height, is_dark } = view;
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
        let scheme = if is_dark { "dark" } else { "light" };
        let scheme = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", scheme).await;
    }

    pub(crate) async fn go(&self, url: &str) {
        self.client.goto(url).await.unwrap();
    }

    /// The value of an expression on the page.
    pub(crate) async fn value(&self, expression: &str) -> Value {
        self.client.execute(&format!("return {expression}"), Vec::new()).await.unwrap()
    }

    pub(crate) async fn text(&self, expression: &str) -> String {
        self.value(expression).await.as_str().unwrap_or_default().to_owned()
    }

    /// What can be read on the page.
    pub(crate) async fn shown(&self) -> String {
        self.text("document.body.innerText").await
    }

    /// Presses keys, one after the other.
    pub(crate) async fn press(&self, keys: &str) {
        let mut actions = KeyActions::new("keys".to_owned());
        for value in keys.chars() {
            actions = actions.then(KeyAction::Down { value }).then(KeyAction::Up { value });
        }
        self.client.perform_actions(actions).await.unwrap();
    }

    /// Waits until an expression on the page is true. Returns how long that took.
    pub(crate) async fn until(&self, expression: &str, at_most: Duration) -> Duration {
        let start = Instant::now();
        // While a page is left there is nothing to ask.
        let mut last = Ok(Value::Null);
        while start.elapsed() < at_most {
            last = self.client.execute(&format!("return !!({expression})"), Vec::new()).await;
            if matches!(last, Ok(Value::Bool(true))) {
                return start.elapsed();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("not so after {at_most:?}: {expression} ({last:?})\n{}", self.shown().await);
    }

    /// What axe finds wrong.
    pub(crate) async fn violations(&self) -> Vec<String> {
        self.client.execute(&self.axe, Vec::new()).await.unwrap();
        let run = "const done = arguments[arguments.length - 1]; \
                   axe.run(document, { runOnly: arguments[0] }).then((all) => done(all.violations.flatMap((rule) => \
                   rule.nodes.map((node) => `${rule.id}: ${node.html} ${node.failureSummary}`))), (error) => done([String(error)]))";
        let found = self.client.execute_async(run, vec![json!(TAGS)]).await.unwrap();
        found.as_array().unwrap().iter().map(|one| one.as_str().unwrap().to_owned()).collect()
    }

    /// What the browser complained of since it was asked last.
    pub(crate) async fn complaints(&self) -> Vec<String> {
        let log = self.client.issue_cmd(Log).await.unwrap();
        log.as_array().unwrap().iter().map(|entry| entry["message"].as_str().unwrap().to_owned()).collect()
    }

    pub(crate) async fn close(self) {
        self.client.clone().close().await.unwrap();
    }
}

impl Driver {
    fn start() -> (Self, u16) {
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.process_group(0).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let driver = Self { child, profile: tempfile::tempdir().unwrap() };
        let port = lines.map_while(Result::ok).find_map(|line| {
            line.strip_suffix('.')?
                .strip_prefix("ChromeDriver was started successfully on port ")?
                .parse()
                .ok()
        });
        (driver, port.expect("chromedriver does not say its port"))
    }
}

impl Drop for Driver {
    /// A browser outlives its driver, if nobody ends it.
    fn drop(&mut self) {
        let mut all = vec![self.child.id()];
        let mut nth = 0;
        while let Some(parent) = all.get(nth).copied() {
            all.extend(children(parent));
            nth += 1;
        }
        // Some may have exited already.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        for process in all.into_iter().filter_map(|id| Pid::from_raw(id.cast_signed())) {
            let _ = kill_process(process, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

fn children(parent: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{parent}/task"));
    let lists = threads.into_iter().flatten().flatten().map(|thread| thread.path().join("children"));
    let lists = lists.filter_map(|path| fs::read_to_string(path).ok());
    lists.flat_map(|list| list.split_whitespace().map(|id| id.parse().unwrap()).collect::<Vec<_>>()).collect()
}

fn found(program: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::env::split_paths(&path).map(|directory| directory.join(program));
    let mut paths = paths.filter(|path| path.is_file());
    paths.next().ok_or_else(|| format!("there is no {program}: run `cargo xtask setup --ci`"))
}

/// axe-core, as `cargo xtask setup --ci` brings it.
fn script() -> Result<String, String> {
    let path = toolchain::cache()?.join(axe::DIRECTORY).join(axe::FILE);
    let missing = |error| format!("{}: {error}: run `cargo xtask setup --ci`", shown(&path));
    fs::read_to_string(&path).map_err(missing)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
