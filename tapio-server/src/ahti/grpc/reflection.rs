//! gRPC Server Reflection: which calls there are, for clients that have no description of them, such as grpcurl.

use axum::Router;
use tonic_reflection::server::Builder;

/// What the build makes of proto/ahti/v1.
const DESCRIPTION: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/ahti.binpb"));

/// Both revisions: many clients know the first only.
pub(super) const V1ALPHA: &str = "/grpc.reflection.v1alpha.ServerReflection/{call}";
pub(super) const V1: &str = "/grpc.reflection.v1.ServerReflection/{call}";

/// Answers at these.
///
/// # Errors
/// The description is none.
pub(super) fn routes() -> anyhow::Result<Router> {
    let described = || Builder::configure().register_encoded_file_descriptor_set(DESCRIPTION);
    Ok(Router::new()
        .route_service(V1ALPHA, described().build_v1alpha()?)
        .route_service(V1, described().build_v1()?))
}
