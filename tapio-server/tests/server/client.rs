//! A client of the gateway that says exactly what a test wants.

use std::net::SocketAddr;

use tapio_delivery::polku::proto::v1::{
    Ack, EventPayload, IngestBatch, gateway_client::GatewayClient, ingest_batch::Payload,
};
use tapio_occurrence::event::{event, v1::Event};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status, Streaming,
    transport::{Channel, Endpoint},
};

use crate::sending::occurrence;

/// An open stream.
pub(crate) struct Stream {
    pub(crate) batches: mpsc::Sender<IngestBatch>,
    pub(crate) acks: Streaming<Ack>,
}

pub(crate) async fn connect(address: SocketAddr) -> GatewayClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    // Acks that nobody reads fill it soon.
    let endpoint = endpoint.initial_stream_window_size(65_535);
    GatewayClient::new(endpoint.connect().await.unwrap())
}

impl Stream {
    pub(crate) async fn open(client: &mut GatewayClient<Channel>) -> Result<Self, Status> {
        let (batches, outgoing) = mpsc::channel(4);
        let acks = client.stream_events(Request::new(ReceiverStream::new(outgoing))).await?.into_inner();
        Ok(Self { batches, acks })
    }

    pub(crate) async fn send(&self, events: Vec<Event>) {
        self.batches.send(batch(events)).await.unwrap();
    }

    /// The next Ack, or how the stream ended.
    pub(crate) async fn ack(&mut self) -> Result<Ack, Status> {
        self.acks.message().await?.ok_or_else(|| Status::ok("ended"))
    }
}

pub(crate) fn batch(events: Vec<Event>) -> IngestBatch {
    let payload = Some(Payload::Events(EventPayload { events }));
    IngestBatch { source: "test".to_owned(), payload, ..IngestBatch::default() }
}

/// Events with ids of their own.
pub(crate) fn events(count: usize) -> Vec<Event> {
    (0..count).map(|_| event(&occurrence())).collect()
}
