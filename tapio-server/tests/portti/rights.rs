//! Who sees what of the server's answers: users of a real API server, with the roles that are shipped.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde_json::{Value, json};
use tapio_delivery::polku::proto::v1::{
    EventPayload, IngestBatch, gateway_client::GatewayClient, ingest_batch::Payload,
};
use tapio_occurrence::{Occurrence, event::event, timestamp};
use tapio_server::ahti::proto::{self, ahti_client::AhtiClient};
use tokio::runtime::Handle;
use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use crate::{
    process::{PROGRAM, Server, free_address, wait_until},
    split::{PLAZA, VAULT, split},
    support::{Cluster, cluster_or_skip, deploy},
};

/// Facts of a failure as they were recorded in one namespace, in two: `payments` fails in one, `orders` in the other.
fn facts() -> Vec<Occurrence> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tapio-ahti/tests/recorded/leak.jsonl");
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| Occurrence::read_json(split(line).as_bytes()).unwrap()).collect()
}

async fn send(server: &Server, facts: &[Occurrence]) {
    let channel =
        Endpoint::from_shared(format!("http://{}", server.address)).unwrap().connect().await.unwrap();
    let payload = Some(Payload::Events(EventPayload { events: facts.iter().map(event).collect() }));
    let batch = IngestBatch { source: "test".to_owned(), payload, ..IngestBatch::default() };
    let batches = tokio_stream::iter([batch]);
    let mut acks = GatewayClient::new(channel).stream_events(batches).await.unwrap().into_inner();
    let ack = acks.message().await.unwrap().unwrap();
    assert_eq!((ack.event_ids.len(), ack.errors.len()), (facts.len(), 0), "{:?}", ack.errors);
    wait_until(
        || server.status()["roles"]["ahti"].clone(),
        |ahti| ahti["behind"]["facts"] == 0 && ahti["restored"] == true,
    );
}

/// A service account, and a token of it.
fn user(cluster: &Cluster, namespace: &str, name: &str) -> String {
    let namespace = format!("--namespace={namespace}");
    cluster.kubectl(&["create", "serviceaccount", name, &namespace]);
    cluster.kubectl(&["create", "token", name, &namespace]).trim().to_owned()
}

fn bind(cluster: &Cluster, name: &str, namespace: &str, role: &str, account: &str) {
    let (namespace, account) = (format!("--namespace={namespace}"), format!("--serviceaccount={account}"));
    cluster.kubectl(&["create", "rolebinding", name, role, &account, &namespace]);
}

/// The server with the rights that it is shipped with.
fn start(cluster: &Cluster, directory: &Path) -> Server {
    let kubeconfig = cluster.file("server.kubeconfig");
    if !kubeconfig.exists() {
        let token = cluster.kubectl(&["create", "token", "tapio-server", "--namespace=tapio"]);
        fs::write(cluster.file("server-token"), token.trim()).unwrap();
        let agents = fs::read_to_string(cluster.kubeconfig()).unwrap();
        let [of_agents, own] =
            ["token", "server-token"].map(|name| format!("\"{}\"", cluster.file(name).display()));
        fs::write(&kubeconfig, agents.replace(&of_agents, &own)).unwrap();
    }
    let mut command = Command::new(PROGRAM);
    command.env("KUBECONFIG", kubeconfig).env("TAPIO_SERVER_AHTI_AUTH_CACHE", "1s");
    let flags = ["--roles=polku,ahti", "--ahti-auth=kubernetes"];
    Server::start_as(command, free_address(), directory, &flags)
}

/// The world of these tests: the server with facts, and who asks.
struct World {
    server: Server,
    /// May read `plaza`, by Tapio's role.
    alice: String,
    /// May read `vault`, as they may get pods there.
    bob: String,
    /// May read everything.
    carol: String,
    /// May read nothing.
    mallory: String,
    /// When all of the facts were there.
    then: Timestamp,
}

impl World {
    async fn new(cluster: &Cluster, directory: &Path) -> Self {
        cluster.kubectl(&["apply", "-f", deploy("server/tapio-server.yaml").to_str().unwrap()]);
        for namespace in [VAULT, PLAZA] {
            cluster.kubectl(&["create", "namespace", namespace]);
        }
        let [alice, bob, carol, mallory] =
            ["alice", "bob", "carol", "mallory"].map(|name| user(cluster, "default", name));
        bind(cluster, "alice", PLAZA, "--clusterrole=tapio-reader", "default:alice");
        cluster.kubectl(&["create", "role", "pods", "--verb=get", "--resource=pods", "--namespace=vault"]);
        bind(cluster, "bob", VAULT, "--role=pods", "default:bob");
        let all = ["--clusterrole=tapio-reader", "--serviceaccount=default:carol"];
        cluster.kubectl(&[&["create", "clusterrolebinding", "carol"], &all[..]].concat());
        let server = start(cluster, directory);
        let facts = facts();
        send(&server, &facts).await;
        let then = facts.iter().map(|fact| fact.time_unix_ns).max().unwrap();
        Self { server, alice, bob, carol, mallory, then: timestamp(then) }
    }

    fn get(&self, who: &str, path: &str) -> (u16, String) {
        let (head, body) = self.server.request("GET", path, Some(who), "");
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body)
    }

    fn incidents(&self, who: &str) -> Vec<Value> {
        let (status, body) = self.get(who, "/api/v1/incidents");
        assert_eq!(status, 200, "{body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        body["incidents"].as_array().unwrap().clone()
    }

    /// What the stream of events says at once to somebody who comes again.
    fn events(&self, token: &str) -> String {
        let mut stream = TcpStream::connect(self.server.api).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let head = format!("authorization: Bearer {token}\r\nlast-event-id: 0");
        write!(stream, "GET /api/v1/events HTTP/1.1\r\nhost: x\r\n{head}\r\n\r\n").unwrap();
        let mut said = Vec::new();
        let mut part = [0; 4_096];
        while let Ok(length @ 1..) = stream.read(&mut part) {
            said.extend(&part[..length]);
        }
        String::from_utf8(said).unwrap()
    }

    /// A client of gRPC with a token.
    async fn client(&self, token: &str) -> AhtiClient<InterceptedService<Channel, impl Interceptor + use<>>> {
        let channel = Endpoint::from_shared(format!("http://{}", self.server.api)).unwrap();
        let token: MetadataValue<Ascii> = format!("Bearer {token}").parse().unwrap();
        let with_token = move |mut request: Request<()>| -> Result<Request<()>, Status> {
            request.metadata_mut().insert("authorization", token.clone());
            Ok(request)
        };
        AhtiClient::with_interceptor(channel.connect().await.unwrap(), with_token)
            .max_decoding_message_size(64 << 20)
    }

    /// What the calls of gRPC say.
    async fn said(&self, who: &str, names: &[&str], incidents: &[String]) -> String {
        let mut client = self.client(who).await;
        let mut all = String::new();
        let text = |incident: proto::Incident| {
            let json = String::from_utf8(incident.json).unwrap();
            format!("{} {:?} {:?} {json}", incident.title, incident.root, incident.hits)
        };
        let list = client.list_incidents(proto::ListRequest::default()).await.unwrap().into_inner();
        all.extend(list.incidents.into_iter().map(text));
        let mut answers = vec![
            client.list_changes(proto::ListRequest::default()).await,
            client.list_findings(proto::ListRequest::default()).await,
            client.get_coverage(proto::CoverageRequest {}).await,
        ];
        for id in incidents {
            let of = || proto::IncidentRequest { id: id.clone() };
            all.extend(client.get_incident(of()).await.map(|incident| text(incident.into_inner())));
            answers.push(client.get_blast(of()).await);
        }
        for (name, namespace) in names.iter().flat_map(|name| [(name, PLAZA), (name, VAULT)]) {
            let (kind, namespace, name) = ("deploy".to_owned(), namespace.to_owned(), (*name).to_owned());
            let of = proto::EntityRequest {
                kind: kind.clone(),
                namespace: namespace.clone(),
                name: name.clone(),
                ..Default::default()
            };
            answers.push(client.get_entity(of).await);
            answers.push(client.why(proto::WhyRequest { kind, namespace, name, ..Default::default() }).await);
        }
        answers.push(client.list_mutes(proto::ListMutesRequest {}).await);
        for incident in incidents {
            let ack = proto::AckRequest { incident: incident.clone(), undo: true, ..Default::default() };
            let mute = proto::MuteRequest { incident: incident.clone(), undo: true, ..Default::default() };
            let refused = [client.ack(ack).await.unwrap_err(), client.mute(mute).await.unwrap_err()];
            all.extend(refused.map(|status| status.message().to_owned()));
        }
        // Who names an object hears that name again.
        let json = |answer: Response<proto::Answer>| String::from_utf8(answer.into_inner().json).unwrap();
        all.extend(answers.into_iter().flatten().map(json));
        let mut facts = client.export(proto::ExportRequest::default()).await.unwrap().into_inner();
        while let Some(part) = facts.message().await.unwrap() {
            all += &String::from_utf8(part.jsonl).unwrap();
        }
        all
    }

    fn calls(&self, who: &str, names: &[&str], incidents: &[String]) -> String {
        let said = self.said(who, names, incidents);
        tokio::task::block_in_place(|| Handle::current().block_on(said))
    }

    /// What a tool of MCP says.
    fn tool(&self, who: &str, name: &str, arguments: Value) -> String {
        let mut arguments = arguments;
        arguments["cluster"] = "unnamed".into();
        let params = json!({ "name": name, "arguments": arguments });
        let call = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params });
        let (head, body) = self.server.request("POST", "/mcp", Some(who), &call.to_string());
        assert!(head.contains(" 200 "), "{head}: {body}");
        body
    }

    /// What all of them say.
    fn tools(&self, who: &str, names: &[&str], incidents: &[String]) -> String {
        let lists = ["incidents", "changes", "findings", "coverage"].map(|name| (name, json!({})));
        let of_incidents = incidents.iter().flat_map(|id| {
            [
                ("incident", json!({ "id": id })),
                ("blast", json!({ "incident": id })),
                ("why", json!({ "incident": id })),
            ]
        });
        let mut all: String =
            lists.into_iter().chain(of_incidents).map(|(name, of)| self.tool(who, name, of)).collect();
        for (name, namespace) in names.iter().flat_map(|name| [(name, PLAZA), (name, VAULT)]) {
            let of = json!({ "kind": "deploy", "namespace": namespace, "name": name });
            for said in [self.tool(who, "why", of.clone()), self.tool(who, "entity", of)] {
                // Who names an object hears that name again.
                if said.contains(r#""isError":false"#) {
                    all += &said;
                }
            }
        }
        all
    }

    /// What somebody gets from every path, with each object of these namespaces.
    fn everything(&self, who: &str, incidents: &[String]) -> String {
        let names = ["orders", "payments", "gateway", "cart", "node", "nothing"];
        let mut all = String::new();
        for path in tapio_server::ahti::paths() {
            let queries: Vec<String> = match path {
                "/api/v1/why" => names
                    .iter()
                    .flat_map(|name| {
                        let of = |namespace| format!("?namespace={namespace}&name={name}");
                        let then = format!("?name={name}&at={}", self.then);
                        [
                            of(PLAZA),
                            of(VAULT),
                            format!("?name={name}"),
                            format!("?kind=node&name={name}"),
                            then,
                        ]
                    })
                    .chain(incidents.iter().map(|id| format!("?incident={id}")))
                    .collect(),
                "/api/v1/correlate" => vec!["?trace_id=0af7651916cd43dd8448eb211c80319c".to_owned()],
                "/api/v1/export" => {
                    let each = incidents.iter().map(|id| format!("?incident={id}"));
                    each.chain([String::new()]).collect()
                }
                "/api/v1/incidents"
                | "/api/v1/findings"
                | "/api/v1/coverage"
                | "/api/v1/changes"
                | "/api/v1/mutes"
                | "/"
                | "/changes"
                | "/coverage"
                | "/api/v1/openapi.json" => vec![String::new()],
                "/api/v1/entity" => names
                    .iter()
                    .flat_map(|name| {
                        let of = |namespace| format!("?kind=deploy&namespace={namespace}&name={name}");
                        let then = format!("?kind=deploy&namespace={PLAZA}&name={name}&at={}", self.then);
                        [of(PLAZA), of(VAULT), format!("?kind=node&name={name}"), then]
                    })
                    .collect(),
                "/api/v1/incidents/{id}" => Vec::new(),
                "/api/v1/blast" => incidents.iter().map(|id| format!("?incident={id}")).collect(),
                "/api/v1/events" => {
                    all += &self.events(who);
                    Vec::new()
                }
                "/preferences" | "/login" | "/logout" | "/assets/{name}" => Vec::new(),
                // Asked for below, with what there is.
                path if path.starts_with("/incidents/") || path.starts_with("/workloads/") => Vec::new(),
                "/ahti.v1.Ahti/{call}" => {
                    all += &self.calls(who, &names, incidents);
                    Vec::new()
                }
                // What the calls are, and nothing else.
                path if path.starts_with("/grpc.reflection.") => Vec::new(),
                "/mcp" => {
                    all += &self.tools(who, &names, incidents);
                    Vec::new()
                }
                "/api/v1/feedback" => {
                    for id in incidents {
                        let body = json!({ "incident": id, "verdict": "right" }).to_string();
                        let (head, body) = self.server.request("POST", path, Some(who), &body);
                        assert!(!head.contains(" 200 "), "{head}");
                        all += &(head + &body);
                    }
                    Vec::new()
                }
                "/api/v1/alerts" => {
                    let body = json!({ "version": "4", "alerts": [] }).to_string();
                    let (head, body) = self.server.request("POST", path, Some(who), &body);
                    assert!(
                        head.contains(" 403 ") && body.contains("create alerts.tapio.dev"),
                        "{head}: {body}"
                    );
                    all += &body;
                    Vec::new()
                }
                "/api/v1/incidents/{id}/ack" | "/api/v1/incidents/{id}/mute" => {
                    let body = json!({ "undo": true }).to_string();
                    for id in incidents {
                        let path = path.replace("{id}", id);
                        let (head, body) = self.server.request("POST", &path, Some(who), &body);
                        assert!(!head.contains(" 200 "), "{head}");
                        all += &(head + &body);
                    }
                    Vec::new()
                }
                new => panic!("{new}: say here what to ask it"),
            };
            for query in queries {
                let (status, body) = self.get(who, &format!("{path}{query}"));
                assert!([200, 403, 404].contains(&status), "{path}{query}: {status} {body}");
                if path == "/api/v1/entity" && status == 404 {
                    assert!(body.contains("no such object is known"), "{body}");
                    continue;
                }
                // Who names a namespace hears that name again, and no other.
                let named = query.split(['?', '&']).find_map(|part| part.strip_prefix("namespace="));
                all += &match named.filter(|_| status == 403) {
                    Some(named) => body
                        .replace(&format!("namespace {named}"), "")
                        .replace(&format!("namespace={named}"), ""),
                    None => body,
                };
            }
        }
        let of_incidents = incidents.iter().flat_map(|id| {
            [format!("/incidents/{id}"), format!("/incidents/{id}/blast"), format!("/api/v1/incidents/{id}")]
        });
        let kinds = ["Deployment", "Service", "Pod"];
        let of_workloads =
            names.iter().flat_map(|name| kinds.map(|kind| format!("/workloads/{PLAZA}/{kind}/{name}")));
        for path in of_incidents.chain(of_workloads) {
            let (status, body) = self.get(who, &path);
            assert!([200, 403, 404].contains(&status), "{path}: {status} {body}");
            // Who names an object hears that name again.
            if status == 200 {
                all += &body;
            }
        }
        all
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everyone_sees_what_they_may_read_and_no_byte_of_the_rest() {
    let cluster = cluster_or_skip!("everyone_sees_what_they_may_read_and_no_byte_of_the_rest");
    let directory = tempfile::tempdir().unwrap();
    let world = World::new(&cluster, directory.path()).await;

    // Without a token, with a wrong one, and with one for somebody else: nothing, whatever is asked.
    let other = cluster.kubectl(&["create", "token", "carol", "--audience=other"]);
    let unknown = [None, Some("not.a.token"), Some(other.trim())];
    for path in tapio_server::ahti::paths().chain(["/", "/nothing"]) {
        for method in ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"] {
            for token in unknown.iter().take(if method == "GET" { 3 } else { 1 }) {
                let (head, body) = world.server.request(method, path, *token, "{}");
                assert!(head.starts_with("HTTP/1.0 401"), "{method} {path}: {head} {body}");
                assert!(head.to_ascii_lowercase().contains("www-authenticate: bearer"), "{head}");
                assert!(method == "HEAD" || body.contains("kubectl create token"), "{body}");
            }
        }
    }

    for token in ["not.a.token", other.trim()] {
        let mut client = world.client(token).await;
        let refused = client.get_coverage(proto::CoverageRequest {}).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
        assert!(refused.message().contains("kubectl create token"), "{refused}");
    }

    // Who may read everything has all of it, also with a token that is for Tapio alone.
    let own = cluster.kubectl(&["create", "token", "carol", "--audience=tapio"]);
    let all = world.incidents(&world.carol);
    assert_eq!(world.incidents(own.trim()), all);
    let across = |incident: &&Value| {
        incident["root"]["namespace"] == VAULT && incident["hits"].to_string().contains(PLAZA)
    };
    let whole = all.iter().find(across).unwrap_or_else(|| panic!("{all:#?}"));
    assert!(whole.get("hidden").is_none());
    let ids: Vec<String> = all.iter().map(|incident| incident["id"].as_str().unwrap().to_owned()).collect();

    let told = world.events(&world.carol);
    assert!(ids.iter().all(|id| told.contains(&format!("\"{id}\""))), "{told}");
    let told = world.events(&world.mallory);
    assert!(told.contains("event: beat") && !told.contains("TAP-"), "{told}");

    // Alice: her part of the incident, and that its cause lies elsewhere.
    let began = Instant::now();
    let hers = world.incidents(&world.alice);
    let first = began.elapsed();
    world.incidents(&world.alice);
    let (first, second) = (first.as_millis(), (began.elapsed() - first).as_millis());
    println!("incidents with rights that are asked for: {first} ms, and remembered: {second} ms");
    let hers = hers.iter().find(|incident| incident["id"] == whole["id"]).unwrap();
    assert_eq!(hers["hidden"]["cause"], true, "{hers:#}");
    assert!(hers["hidden"]["steps"].as_u64().unwrap() > 0 && !hers["lines"].as_array().unwrap().is_empty());
    assert!(
        hers["title"].as_str().unwrap().ends_with("the cause lies in a namespace that you may not read"),
        "{hers:#}"
    );
    assert_eq!(hers["certainty"], whole["certainty"]);
    let seen = world.everything(&world.alice, &ids);
    assert!(seen.contains("orders") && seen.contains(PLAZA));
    for secret in [VAULT, "payments"] {
        let at =
            seen.find(secret).map(|at| seen[at.saturating_sub(300)..].chars().take(400).collect::<String>());
        // She asks for the name herself, and gets it in no answer.
        assert_eq!(at, None, "{secret}");
    }
    // Bob: the cause, and that it has effects elsewhere.
    let his = world.incidents(&world.bob);
    let his = his.iter().find(|incident| incident["id"] == whole["id"]).unwrap();
    assert_eq!((&his["root"], &his["hidden"]["cause"]), (&whole["root"], &json!(false)));
    let seen = world.everything(&world.bob, &ids);
    assert!(seen.contains("payments") && seen.contains(VAULT));
    for secret in [PLAZA, "orders-", "gateway-"] {
        let at =
            seen.find(secret).map(|at| seen[at.saturating_sub(300)..].chars().take(400).collect::<String>());
        assert_eq!(at, None, "{secret}");
    }
    // Mallory: nothing; an incident is as one that does not exist.
    assert_eq!(world.incidents(&world.mallory), [] as [Value; 0]);
    let id = &ids[0];
    let there = world.get(&world.mallory, &format!("/api/v1/why?incident={id}"));
    let nowhere = world.get(&world.mallory, "/api/v1/why?incident=TAP-999");
    assert_eq!((there.0, there.1.replace(id, "TAP-999")), nowhere);
    let (status, body) = world.get(&world.mallory, "/api/v1/export");
    assert_eq!((status, body.as_str()), (200, ""));

    // A namespace that one may not read: the same whether there is one, and the command that is said grants it.
    let why = |namespace: &str| {
        world.get(&world.alice, &format!("/api/v1/why?namespace={namespace}&name=payments"))
    };
    let (status, said) = why(VAULT);
    assert_eq!((status, said.replace(VAULT, "none")), why("none"));
    assert!(status == 403 && said.contains("get incidents.tapio.dev"), "{said}");
    let command = said.trim().split_once("kubectl ").unwrap().1;
    cluster.kubectl(&command.split(' ').collect::<Vec<_>>());
    let granted = wait_until(|| why(VAULT), |(status, _)| *status == 200);
    assert!(granted.1.contains("payments"), "{}", granted.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_end_and_an_api_server_that_is_away_gives_no_answer() {
    let cluster = cluster_or_skip!("rights_end_and_an_api_server_that_is_away_gives_no_answer");
    let directory = tempfile::tempdir().unwrap();
    let world = World::new(&cluster, directory.path()).await;
    let incident = world.incidents(&world.alice)[0]["id"].clone();

    // To judge an answer is a right of its own, where its cause lies.
    let judge = |who: &str| {
        let body = json!({ "incident": incident, "verdict": "right" }).to_string();
        let (head, body) = world.server.request("POST", "/api/v1/feedback", Some(who), &body);
        (head.split(' ').nth(1).unwrap().to_owned(), body)
    };
    let (status, said) = judge(&world.alice);
    assert!(status == "403" && said.contains("where its cause lies, and you may not read that"), "{said}");
    let (status, said) = judge(&world.bob);
    assert!(status == "403" && said.contains("`update incidents.tapio.dev` in namespace vault"), "{said}");
    bind(&cluster, "bob-judges", VAULT, "--clusterrole=tapio-feedback", "default:bob");
    wait_until(|| judge(&world.bob), |(status, _)| status == "200");

    // So is to acknowledge it; who did it is said to those who may read their namespace.
    let ack = format!("/api/v1/incidents/{}/ack", incident.as_str().unwrap());
    let (head, said) = world.server.request("POST", &ack, Some(&world.alice), "{}");
    assert!(head.contains(" 403 ") && said.contains("may not acknowledge this incident"), "{said}");
    let (head, said) = world.server.request("POST", &ack, Some(&world.bob), r#"{"reason": "vault is mine"}"#);
    assert!(head.contains(" 200 "), "{said}");
    let acked = |who: &str| world.incidents(who)[0]["ack"].clone();
    let seen = wait_until(|| acked(&world.carol), |ack| !ack.is_null());
    assert_eq!(seen["by"], "system:serviceaccount:default:bob", "{seen}");
    // His name has that of a namespace that he may not read; her words would have had one that she may not.
    assert_eq!(acked(&world.bob)["reason"], "vault is mine");
    for hidden in [&acked(&world.bob)["by"], &acked(&world.alice)["by"], &acked(&world.alice)["reason"]] {
        assert!(hidden.is_null(), "{hidden}");
    }
    let mute = json!({ "namespace": PLAZA, "for": "1h" }).to_string();
    let (head, said) = world.server.request("POST", "/api/v1/mutes", Some(&world.alice), &mute);
    assert!(head.contains(" 403 ") && said.contains("may not mute Namespace plaza"), "{said}");

    // An Alertmanager may send alerts, and nothing else.
    for file in ["server/alerts.yaml", "server/api-service.yaml"] {
        cluster.kubectl(&["apply", "-f", deploy(file).to_str().unwrap()]);
    }
    cluster.kubectl(&["create", "namespace", "monitoring"]);
    cluster.kubectl(&["create", "serviceaccount", "alertmanager", "--namespace=monitoring"]);
    let account = ["create", "token", "alertmanager", "--namespace=monitoring", "--audience=tapio"];
    let sender = cluster.kubectl(&account);
    let alerts = json!({ "version": "4", "alerts": [] }).to_string();
    let send = |who: &str| world.server.request("POST", "/api/v1/alerts", Some(who), &alerts);
    let (head, said) = send(sender.trim());
    assert!(head.contains(" 409 ") && said.contains("add `notify.NAME.alertmanager.url`"), "{head}: {said}");
    assert!(send(&world.carol).0.contains(" 403 "), "who may read everything may not");
    assert_eq!(world.incidents(sender.trim()), [] as [Value; 0]);

    // A right that was taken away.
    cluster.kubectl(&["delete", "rolebinding", "alice", "--namespace=plaza"]);
    let began = Instant::now();
    wait_until(|| world.incidents(&world.alice).len(), |count| *count == 0);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    // A user that is no more.
    cluster.kubectl(&["delete", "serviceaccount", "bob", "--namespace=default"]);
    wait_until(|| world.get(&world.bob, "/api/v1/coverage").0, |status| *status == 401);

    let apiserver = cluster.server.program("kube-apiserver");
    apiserver.stop().unwrap();
    let paths: BTreeSet<&str> =
        tapio_server::ahti::paths().filter(|path| !path.ends_with("feedback")).collect();
    let ask = || world.get(&world.carol, "/api/v1/incidents");
    let (_, said) = wait_until(ask, |(status, _)| *status == 503);
    assert!(said.contains("cannot be checked now: the API server cannot be reached"), "{said}");
    for path in paths {
        assert_eq!(world.get(&world.carol, path).0, 503, "{path}");
    }
    // One that is started meanwhile comes up, and answers once the API server does.
    let directory = tempfile::tempdir().unwrap();
    let late = start(&cluster, directory.path());
    let ask = || late.request("GET", "/api/v1/coverage", Some(&world.carol), "").0;
    assert!(ask().starts_with("HTTP/1.0 503"), "{}", ask());
    cluster.server.resume().unwrap();
    wait_until(ask, |head| head.starts_with("HTTP/1.0 200"));
    wait_until(|| world.get(&world.carol, "/api/v1/incidents").0, |status| *status == 200);
    // Tokens are nowhere in what the servers write.
    for token in [&world.alice, &world.bob, &world.carol] {
        assert!(!world.server.log().contains(token.as_str()) && !late.log().contains(token.as_str()));
    }
}
