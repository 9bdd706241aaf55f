//! `ahti.v1.Ahti` over a real channel.

use std::time::Duration;

use prost::Message as _;
use prost_types::FileDescriptorProto;
use serde_json::Value;
use tapio_occurrence::Occurrence;
use tapio_server::ahti::proto::{self, ahti_client::AhtiClient};
use tokio::time::timeout;
use tonic::{Code, Streaming, transport::Channel};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::{
    facts::{alive, crashing},
    site::Site,
    support::wait_until,
};

async fn connect(site: &Site) -> AhtiClient<Channel> {
    AhtiClient::connect(site.url("")).await.unwrap().max_decoding_message_size(64 << 20)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_has_the_bytes_of_rest() {
    let site = Site::of("leak").await;
    let mut client = connect(&site).await;
    let rest = |path: &str| site.server.answer(path).1;
    let id = site.incidents()[0].clone();
    let shop = || proto::ListRequest { namespace: "shop".to_owned() };
    let of = |id: &str| proto::IncidentRequest { id: id.to_owned() };

    let why = proto::WhyRequest {
        kind: "deploy".to_owned(),
        namespace: "shop".to_owned(),
        name: "payments".to_owned(),
        ..proto::WhyRequest::default()
    };
    let answer = client.why(why).await.unwrap().into_inner();
    let expected = rest("/api/v1/why?kind=deploy&namespace=shop&name=payments");
    assert_eq!(String::from_utf8(answer.json).unwrap(), expected);
    let incident = client.get_incident(of(&id)).await.unwrap().into_inner();
    assert_eq!(answer.incident.unwrap(), incident);
    let json = rest(&format!("/api/v1/incidents/{id}"));
    assert_eq!(String::from_utf8(incident.json.clone()).unwrap(), json);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (incident.id.as_str(), incident.title.as_str()),
        (id.as_str(), json["title"].as_str().unwrap())
    );
    assert_eq!(incident.root.as_ref().unwrap().name, json["root"]["name"].as_str().unwrap());
    assert_eq!(
        incident.certainty().as_str_name(),
        format!("CERTAINTY_{}", json["certainty"].as_str().unwrap().to_uppercase())
    );
    assert_eq!(
        incident.status().as_str_name(),
        format!("STATUS_{}", json["status"].as_str().unwrap().to_uppercase())
    );
    assert_eq!(incident.hits.len(), json["hits"].as_array().unwrap().len());

    let list = client.list_incidents(shop()).await.unwrap().into_inner();
    let parts: Vec<String> =
        list.incidents.iter().map(|incident| String::from_utf8(incident.json.clone()).unwrap()).collect();
    let coverage = String::from_utf8(list.coverage_json).unwrap();
    let whole = format!(r#"{{"incidents":[{}],"coverage":{coverage}}}"#, parts.join(","));
    assert_eq!(whole, rest("/api/v1/incidents?namespace=shop"));
    let entity = proto::EntityRequest {
        kind: "deploy".to_owned(),
        namespace: "shop".to_owned(),
        name: "payments".to_owned(),
        ..Default::default()
    };
    for (answer, path) in [
        (client.list_changes(shop()).await, "/api/v1/changes?namespace=shop".to_owned()),
        (client.list_findings(proto::ListRequest::default()).await, "/api/v1/findings".to_owned()),
        (
            client.get_entity(entity).await,
            "/api/v1/entity?kind=deploy&namespace=shop&name=payments".to_owned(),
        ),
        (client.get_coverage(proto::CoverageRequest {}).await, "/api/v1/coverage".to_owned()),
        (client.get_blast(of(&id)).await, format!("/api/v1/blast?incident={id}")),
    ] {
        assert_eq!(String::from_utf8(answer.unwrap().into_inner().json).unwrap(), rest(&path), "{path}");
    }

    let mut facts = client.export(proto::ExportRequest { incident: id.clone() }).await.unwrap().into_inner();
    let (mut jsonl, mut last) = (Vec::new(), None);
    while let Some(part) = facts.message().await.unwrap() {
        for line in part.jsonl.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            Occurrence::read_json(line).unwrap();
        }
        jsonl.extend(part.jsonl);
        last = Some(part.hidden);
    }
    assert_eq!(String::from_utf8(jsonl).unwrap(), rest(&format!("/api/v1/export?incident={id}")));
    assert_eq!(last, Some(0));

    for (verdict, note, code) in [
        (proto::Verdict::Unspecified, "", Some(Code::InvalidArgument)),
        (proto::Verdict::NotQuite, "it was the cache", None),
    ] {
        let feedback =
            proto::FeedbackRequest { incident: id.clone(), verdict: verdict.into(), note: note.to_owned() };
        let noted = client.feedback(feedback).await;
        assert_eq!(noted.as_ref().err().map(tonic::Status::code), code, "{noted:?}");
    }
    let incident = format!("/api/v1/incidents/{id}");
    wait_until(|| rest(&incident), |json| json.contains(r#""feedback":"not-quite""#));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_and_muted_is_so_by_rest_too() {
    let site = Site::of("leak").await;
    let mut client = connect(&site).await;
    let rest = |path: &str| site.server.answer(path).1;
    let id = site.incidents()[0].clone();
    let path = format!("/api/v1/incidents/{id}");
    let incident = || id.clone();
    let json = |key: &str| serde_json::from_str::<Value>(&rest(&path)).unwrap()[key].clone();

    let ack = |undo| proto::AckRequest { incident: incident(), reason: "watching".to_owned(), undo };
    assert!(!client.ack(ack(false)).await.unwrap().into_inner().id.is_empty());
    wait_until(|| json("ack"), |ack| ack["reason"] == "watching");
    let same = client.get_incident(proto::IncidentRequest { id: incident() }).await.unwrap().into_inner();
    assert_eq!(String::from_utf8(same.json).unwrap(), rest(&path));
    client.ack(ack(true)).await.unwrap();
    wait_until(|| json("ack"), Value::is_null);

    let mute = proto::MuteRequest { incident: incident(), r#for: "2h".to_owned(), ..Default::default() };
    client.mute(mute.clone()).await.unwrap();
    wait_until(|| json("mute"), |mute| mute["until_unix_ns"].is_u64() || mute["until"].is_string());
    client.mute(proto::MuteRequest { undo: true, r#for: String::new(), ..mute.clone() }).await.unwrap();
    wait_until(|| json("mute"), Value::is_null);

    let of_object = proto::MuteRequest {
        incident: String::new(),
        kind: "deploy".to_owned(),
        namespace: "shop".to_owned(),
        name: "cart".to_owned(),
        ..mute.clone()
    };
    client.mute(of_object.clone()).await.unwrap();
    let listed = wait_until(|| rest("/api/v1/mutes"), |list| list.contains("cart"));
    let answer = client.list_mutes(proto::ListMutesRequest {}).await.unwrap().into_inner();
    assert_eq!(String::from_utf8(answer.json).unwrap(), listed);

    for (mute, says) in [
        (proto::MuteRequest { r#for: "soon".to_owned(), ..mute.clone() }, "`soon` is not a duration"),
        (proto::MuteRequest { kind: "deploy".to_owned(), ..mute.clone() }, "and not both"),
        (proto::MuteRequest { name: String::new(), ..of_object }, "give kind, namespace and name"),
    ] {
        let refused = client.mute(mute).await.unwrap_err();
        assert!(refused.code() == Code::InvalidArgument && refused.message().contains(says), "{refused}");
    }
    let refused = client.ack(proto::AckRequest::default()).await.unwrap_err();
    assert!(refused.message().starts_with("incident: give its id"), "{refused}");
    let unknown = proto::AckRequest { incident: "TAP-99".to_owned(), ..Default::default() };
    assert_eq!(client.ack(unknown).await.unwrap_err().code(), Code::NotFound);
}

/// As grpcurl does: which services there are, then the files that describe one.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_description_is_told_of_every_call() {
    let site = Site::empty();
    let channel = Channel::from_shared(site.url("")).unwrap().connect().await.unwrap();
    let mut client = ServerReflectionClient::new(channel);
    let asked = [
        MessageRequest::ListServices(String::new()),
        MessageRequest::FileContainingSymbol("ahti.v1.Ahti".to_owned()),
    ];
    let asked =
        asked.map(|asked| ServerReflectionRequest { message_request: Some(asked), ..Default::default() });
    let mut answers = client.server_reflection_info(tokio_stream::iter(asked)).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) =
        answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no list")
    };
    assert!(list.service.iter().any(|service| service.name == "ahti.v1.Ahti"), "{list:?}");
    let Some(MessageResponse::FileDescriptorResponse(files)) =
        answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no files")
    };
    let file = FileDescriptorProto::decode(&*files.file_descriptor_proto[0]).unwrap();
    let calls: Vec<&str> = file.service[0].method.iter().map(|method| method.name()).collect();
    let text = include_str!("../../../proto/ahti/v1/ahti.proto");
    let written: Vec<&str> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("rpc ")?.split_once('(').map(|(name, _)| name))
        .collect();
    assert_eq!(calls, written);
    assert!(calls.len() > 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_statuses_with_the_remedy() {
    let site = Site::of("limit").await;
    let mut client = connect(&site).await;
    let unknown = proto::IncidentRequest { id: "TAP-99".to_owned() };
    for refused in [
        client.get_incident(unknown.clone()).await.err(),
        client.get_blast(unknown).await.err(),
        client.export(proto::ExportRequest { incident: "TAP-99".to_owned() }).await.err(),
    ] {
        let refused = refused.unwrap();
        assert_eq!(
            (refused.code(), refused.message()),
            (Code::NotFound, "TAP-99: there is no such incident")
        );
    }
    let refused = client.why(proto::WhyRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().starts_with("give name"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_say_each_revision() {
    let site = Site::of("limit").await;
    let before = site.incidents();
    let mut client = connect(&site).await;
    let mut events = client.events(proto::EventsRequest {}).await.unwrap().into_inner();
    assert_eq!(events.message().await.unwrap().unwrap().incident, "");
    // What there is comes first.
    assert!(before.contains(&told(&mut events).await.incident));
    // No later fact says what these mean.
    site.take(&alive("worker-1", 0)).await;
    site.take(&crashing("bank", "ledger", 120, "back-off 5m0s")).await;
    let new = loop {
        let event = told(&mut events).await;
        if !before.contains(&event.incident) {
            break event;
        }
    };
    assert!(new.revision > 0 && new.status() == proto::Status::Open, "{new:?}");
    assert!(site.incidents().contains(&new.incident), "{new:?}");
}

/// The next event that is of an incident.
async fn told(events: &mut Streaming<proto::Event>) -> proto::Event {
    let told = async {
        loop {
            let event = events.message().await.unwrap().unwrap();
            if !event.incident.is_empty() {
                return event;
            }
        }
    };
    timeout(Duration::from_secs(60), told).await.unwrap()
}
