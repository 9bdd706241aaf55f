//! PORTTI as a task, with the facts that it sent.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use tapio_kube::Access;
use tapio_occurrence::{
    Occurrence,
    kubernetes::{Change, Condition, Fact, Object, Reference},
};
use tapio_server::{
    facts::Facts,
    portti::{self, Place, Settings, Status},
};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

use super::{Cluster, deploy};

/// For so long that nothing is said again because of it.
const RETAINED: Duration = Duration::from_secs(1 << 31);
/// How long a fact may take.
const PATIENCE: Duration = Duration::from_secs(90);

/// What was sent, and whether it is accepted.
pub(crate) struct Told {
    facts: Mutex<Vec<Occurrence>>,
    changed: watch::Sender<usize>,
    /// Facts with this in their message are received and not acknowledged.
    held: watch::Sender<Option<&'static str>>,
}

/// Where PORTTI sends them.
struct Sink(Arc<Told>);

pub(crate) struct Portti {
    pub(crate) told: Arc<Told>,
    pub(crate) status: Arc<Status>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Facts for Sink {
    async fn accept(&mut self, facts: Vec<Occurrence>) -> anyhow::Result<()> {
        for fact in &facts {
            // What leaves can be read again.
            let text = serde_json::to_string(fact)?;
            if let Ok(path) = std::env::var("PORTTI_DUMP") {
                use std::io::Write;
                writeln!(fs::File::options().append(true).create(true).open(path)?, "{text}")?;
            }
            assert_eq!(serde_json::from_str::<Occurrence>(&text)?, *fact, "{text}");
        }
        let told = &self.0;
        let mut held = told.held.subscribe();
        told.facts.lock().unwrap().extend(facts.iter().cloned());
        told.changed.send_modify(|times| *times += 1);
        let is_held = |text: &str| facts.iter().any(|fact| fact.message.contains(text));
        held.wait_for(|held| !held.is_some_and(is_held)).await?;
        Ok(())
    }
}

impl Told {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { facts: Mutex::default(), changed: watch::channel(0).0, held: watch::channel(None).0 })
    }

    /// Does not acknowledge facts with this in their message, nor those that come with them; `None` acknowledges all.
    pub(crate) fn hold(&self, text: Option<&'static str>) {
        self.held.send_replace(text);
    }

    pub(crate) fn all(&self) -> Vec<Occurrence> {
        self.facts.lock().unwrap().clone()
    }

    pub(crate) fn forget(&self) {
        self.facts.lock().unwrap().clear();
    }

    /// The facts of a type.
    pub(crate) fn of<F: Fact>(&self) -> Vec<(Occurrence, F)> {
        let read = |o: Occurrence| F::of(&o).map(|fact| (o, fact.unwrap()));
        self.all().into_iter().filter_map(read).collect()
    }

    pub(crate) fn changes(&self) -> Vec<Change> {
        self.of().into_iter().map(|(_, change)| change).collect()
    }

    /// Waits for a fact of a type.
    pub(crate) async fn until<F: Fact + Debug>(&self, is: impl Fn(&F) -> bool) -> (Occurrence, F) {
        let mut changed = self.changed.subscribe();
        let wait = async {
            loop {
                if let Some(found) = self.of::<F>().into_iter().find(|(_, fact)| is(fact)) {
                    return found;
                }
                changed.changed().await.unwrap();
            }
        };
        let Ok(found) = timeout(PATIENCE, wait).await else {
            panic!("{} never came; there are {:#?}", F::TYPE, self.messages())
        };
        found
    }

    /// Waits for a change of an object.
    pub(crate) async fn change(
        &self,
        kind: &str,
        name: &str,
        is: impl Fn(&Change) -> bool,
    ) -> (Occurrence, Change) {
        self.until(|change: &Change| is_of(&change.object, kind, name) && is(change)).await
    }

    /// Waits for a state of an object, or for its end.
    pub(crate) async fn state(&self, name: &str, condition: &str, status: &str) -> (Occurrence, Condition) {
        let is = |c: &Condition| c.object.name == name && c.condition == condition && c.status == status;
        self.until(is).await
    }

    pub(crate) fn messages(&self) -> Vec<String> {
        self.all().iter().map(|fact| format!("{}: {}", fact.kind, fact.message)).collect()
    }

    /// No fact was sent twice, but for what there is and lasts, which each run says once more with the same ids.
    pub(crate) fn assert_distinct(&self) {
        let mut by_id = BTreeMap::new();
        for fact in self.all() {
            let before = by_id.insert(fact.id, fact.clone());
            let lasts = [Object::TYPE, Condition::TYPE].contains(&&*fact.kind);
            if let Some(before) = before.filter(|before| *before != fact || !lasts) {
                panic!("twice: {before:?} and {fact:?}");
            }
        }
    }
}

pub(crate) fn is_of(reference: &Reference, kind: &str, name: &str) -> bool {
    reference.kind == kind && reference.name == name
}

impl Portti {
    /// Starts it with the shipped role, with its state in a directory of the cluster.
    pub(crate) async fn start(cluster: &Cluster, told: &Arc<Told>, settings: Settings) -> Self {
        let access = Self::access(cluster);
        let status = Arc::new(Status::default());
        let (stop, stopped) = oneshot::channel();
        let (told, state) = (Arc::clone(told), cluster.file("portti"));
        let task = tokio::spawn({
            let (told, status) = (Arc::clone(&told), Arc::clone(&status));
            let retained = RETAINED;
            let place = Place { directory: state, cluster: Some("test".into()), retained };
            async move {
                let stopped = async { drop(stopped.await) };
                portti::run(access, &settings, place, &mut Sink(told), status, stopped).await
            }
        });
        Self { told, status, stop, task }
    }

    /// Starts it, and waits until all kinds are known.
    pub(crate) async fn synced(cluster: &Cluster) -> Self {
        let portti = Self::start(cluster, &Told::new(), Settings::default()).await;
        portti.settled().await;
        portti
    }

    /// Waits until every kind is watched, or cannot be.
    pub(crate) async fn settled(&self) {
        let mut changed = self.told.changed.subscribe();
        let wait = async {
            while !self.status.is_settled() {
                changed.changed().await.unwrap();
            }
        };
        assert!(timeout(PATIENCE, wait).await.is_ok(), "{:#?}", self.status.kinds());
    }

    pub(crate) async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }

    /// Access as a service account with the shipped role, and nothing else.
    fn access(cluster: &Cluster) -> Access {
        Access::Kubeconfig(vec![Self::kubeconfig(cluster, "default")])
    }

    /// A kubeconfig for it, with a namespace.
    pub(crate) fn kubeconfig(cluster: &Cluster, namespace: &str) -> PathBuf {
        let token = cluster.file("portti-token");
        if !token.exists() {
            cluster.kubectl(&["create", "serviceaccount", "portti", "--namespace=tapio"]);
            cluster.kubectl(&["apply", "-f", deploy("server/portti-role.yaml").to_str().unwrap()]);
            for role in ["tapio-portti", "tapio-portti-secrets"] {
                let (role, name) = (format!("--clusterrole={role}"), format!("{role}-test"));
                let subject = "--serviceaccount=tapio:portti";
                cluster.kubectl(&["create", "clusterrolebinding", &name, &role, subject]);
            }
            let made = cluster.kubectl(&["create", "token", "portti", "--namespace=tapio"]);
            fs::write(&token, made.trim()).unwrap();
        }
        let agent = fs::read_to_string(cluster.kubeconfig()).unwrap();
        let agent_token = format!("\"{}\"", cluster.file("token").display());
        let file = cluster.file(&format!("portti-{namespace}.kubeconfig"));
        let text = agent.replace(&agent_token, &format!("\"{}\"", token.display()));
        let context = format!("cluster: a, namespace: {namespace}, user");
        fs::write(&file, text.replace("cluster: a, user", &context)).unwrap();
        file
    }
}
