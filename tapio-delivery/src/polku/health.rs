//! Asks a gateway for its health.

use std::time::Duration;

use tokio::time::timeout;
use tonic::Code;

use super::{
    super::connection::{Target, Trouble},
    Endpoint, Settings, Timings, gateways,
    proto::v1::{HealthRequest, HealthResponse, gateway_client::GatewayClient},
};

/// The health that a gateway reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It is healthy.
    Healthy,
    /// It is unhealthy; the text names the parts.
    Unhealthy(String),
    /// It uses gRPC but has no health service.
    Unsaid,
}

/// Connects to one of the gateways, like the sink, and asks for its health.
///
/// # Errors
/// The gateway cannot be reached in time, or would not accept the sink.
pub async fn health(settings: &Settings, endpoint: &Endpoint, within: Duration) -> Result<Health, Trouble> {
    let target = gateways::target(settings, endpoint, Timings { connect: within, ..Timings::default() });
    timeout(within, ask(&target)).await.unwrap_or_else(|_| Err(Trouble::no_answer(within)))
}

async fn ask(target: &Target) -> Result<Health, Trouble> {
    let (grpc, link) = target.grpc().await?;
    let origin = grpc.origin.clone();
    match GatewayClient::with_origin(grpc, origin).health(HealthRequest {}).await {
        Ok(response) => Ok(of(&response.into_inner())),
        Err(status) if status.code() == Code::Unimplemented => Ok(Health::Unsaid),
        Err(status) => Err(target.explain(link, status).await),
    }
}

fn of(response: &HealthResponse) -> Health {
    if response.healthy {
        return Health::Healthy;
    }
    let mut parts: Vec<_> = response
        .components
        .iter()
        .filter(|(_, component)| !component.healthy)
        .map(|(name, component)| format!("{name}: {}", component.message))
        .collect();
    parts.sort();
    Health::Unhealthy(if parts.is_empty() { "it does not say why".to_owned() } else { parts.join("; ") })
}

#[cfg(test)]
mod tests {
    use super::{super::proto::v1::ComponentHealth, *};

    #[test]
    fn the_parts_that_are_not_well_are_named() {
        let part = |healthy, message: &str| ComponentHealth { healthy, message: message.to_owned() };
        let components =
            [("disk", part(false, "full")), ("net", part(true, "")), ("bus", part(false, "slow"))];
        let components = components.map(|(name, part)| (name.to_owned(), part)).into();
        let mut response = HealthResponse { components, ..HealthResponse::default() };
        assert_eq!(of(&response), Health::Unhealthy("bus: slow; disk: full".to_owned()));
        response.components.clear();
        assert_eq!(of(&response), Health::Unhealthy("it does not say why".to_owned()));
        response.healthy = true;
        assert_eq!(of(&response), Health::Healthy);
    }
}
