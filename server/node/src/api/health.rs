//! `grpc.health.v1.Health`. As with etcd only the empty service name is registered, and it is SERVING as long as the
//! server answers.

use net::pb::healthpb as pb;
use pb::health_check_response::ServingStatus;

use super::{Error, Request};

pub(super) fn decode_check(request: pb::HealthCheckRequest) -> Request {
    Request::HealthCheck { service: request.service }
}

pub(super) fn decode_watch(request: pb::HealthCheckRequest) -> Request {
    Request::HealthWatch { service: request.service }
}

pub(super) fn decode_list(_: pb::HealthListRequest) -> Request {
    Request::HealthList
}

/// Answer to Check.
///
/// # Errors
/// [`Error::UnknownService`] for every name but the empty one.
pub fn check(service: &str) -> Result<pb::HealthCheckResponse, Error> {
    if service.is_empty() { Ok(status(ServingStatus::Serving)) } else { Err(Error::UnknownService) }
}

/// First message of a Watch; the stream stays open. An unknown name is an answer here, not an error.
pub fn watch(service: &str) -> pb::HealthCheckResponse {
    status(if service.is_empty() { ServingStatus::Serving } else { ServingStatus::ServiceUnknown })
}

/// Answer to List.
pub fn list() -> pb::HealthListResponse {
    pb::HealthListResponse { statuses: [(String::new(), status(ServingStatus::Serving))].into() }
}

fn status(status: ServingStatus) -> pb::HealthCheckResponse {
    pb::HealthCheckResponse { status: status as i32 }
}
