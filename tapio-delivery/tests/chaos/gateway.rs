//! A POLKU gateway as a process: writes each batch down, then acknowledges it.

use std::{
    fs::File,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex},
};

use serde::{Deserialize, Serialize};
use tapio_delivery::polku::proto::v1::{
    Ack, HealthRequest, HealthResponse, IngestBatch, IngestEvent,
    gateway_server::{Gateway as Service, GatewayServer},
    ingest_batch::Payload,
};
use tokio_stream::{Stream, StreamExt as _, wrappers::TcpListenerStream};
use tonic::{Request, Response, Status, Streaming, transport};

use crate::role::{self, Role};

#[derive(Serialize, Deserialize)]
struct Order {
    address: SocketAddr,
    arrivals: PathBuf,
}

/// Starts one, and waits until it listens.
pub(crate) fn start(address: SocketAddr, directory: &Path) -> Role {
    let order = Order { address, arrivals: directory.join("arrivals") };
    let role = role::start(
        role::here(),
        "gateway::this_process_is_a_gateway",
        &order,
        &directory.join("gateway.log"),
    );
    let connected = role::until(|| std::net::TcpStream::connect(address), Result::is_ok);
    drop(connected);
    role
}

#[test]
fn this_process_is_a_gateway() {
    let Some(Order { address, arrivals }) = role::order() else { return };
    let arrivals = File::options().create(true).append(true).open(arrivals).unwrap();
    let service = GatewayServer::new(Gateway(Arc::new(Mutex::new(arrivals))));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let incoming = TcpListenerStream::new(listener).filter(Result::is_ok);
        transport::Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap();
    });
}

#[derive(Clone)]
struct Gateway(Arc<Mutex<File>>);

impl Gateway {
    /// Writes one line per batch, in one write.
    fn take(&self, batch: IngestBatch) -> Result<Ack, Status> {
        let Some(Payload::Events(payload)) = batch.payload else {
            return Err(Status::unimplemented("pass-through only"));
        };
        let event_ids: Vec<_> = payload.events.into_iter().map(|event| event.id).collect();
        let line = event_ids.join(" ") + "\n";
        self.0.lock().unwrap().write_all(line.as_bytes()).unwrap();
        Ok(Ack { event_ids, ..Ack::default() })
    }
}

#[tonic::async_trait]
impl Service for Gateway {
    type StreamEventsStream = Pin<Box<dyn Stream<Item = Result<Ack, Status>> + Send>>;

    async fn stream_events(
        &self,
        request: Request<Streaming<IngestBatch>>,
    ) -> Result<Response<Self::StreamEventsStream>, Status> {
        let gateway = self.clone();
        let acks = request.into_inner().map(move |batch| gateway.take(batch?));
        Ok(Response::new(Box::pin(acks)))
    }

    async fn send_event(&self, _: Request<IngestEvent>) -> Result<Response<Ack>, Status> {
        Err(Status::unimplemented("the agent streams"))
    }

    async fn health(&self, _: Request<HealthRequest>) -> Result<Response<HealthResponse>, Status> {
        Ok(Response::new(HealthResponse { healthy: true, ..HealthResponse::default() }))
    }
}
