//! Asking a gateway how it is.

use std::time::Duration;

use tokio::time::timeout;
use tonic::Code;

use super::{
    super::connection::{Target, Trouble},
    Endpoint, Settings, Timings, gateways,
    proto::v1::{HealthRequest, HealthResponse, gateway_client::GatewayClient},
};

/// How a gateway says that it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It is well.
    Healthy,
    /// It is not, and these parts are why.
    Unhealthy(String),
    /// It speaks gRPC and does not know the question.
    Unsaid,
}

/// Connects to one of the gateways, as the sink would, and asks how it is.
///
/// # Errors
/// It cannot be reached within the time, or would not let the sink in.
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
