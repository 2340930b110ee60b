//! `etcdserverpb.KV`: Range, Put, DeleteRange, Txn, Compact.

use bytes::Bytes;
use engine::quota;
use net::pb::etcdserverpb as pb;
use pb::request_op::Request as OpRequest;

use super::{Context, Error, Request, parse, txn_overlap};
use crate::convert;
use crate::propose::{Command, field};

pub(super) fn range(request: pb::RangeRequest) -> Result<Request, Error> {
    check_range(&request)?;
    let linearizable = !request.serializable;
    Ok(Request::Range { options: convert::range(request), linearizable })
}

pub(super) fn put(context: &mut Context<'_>, message: &Bytes) -> Result<Request, Error> {
    let request: pb::PutRequest = parse(message)?;
    let checked = check_put(&request);
    let put = convert::put(request);
    if !context.space.admits(quota::put_cost(&put)) {
        return Err(Error::NoSpace);
    }
    checked?;
    context.write(field::PUT, message, &[], Command::Put(put))
}

pub(super) fn delete_range(context: &mut Context<'_>, message: &Bytes) -> Result<Request, Error> {
    let request: pb::DeleteRangeRequest = parse(message)?;
    check_delete(&request)?;
    context.write(field::DELETE_RANGE, message, &[], Command::DeleteRange(convert::delete(request)))
}

pub(super) fn txn(context: &mut Context<'_>, message: &Bytes) -> Result<Request, Error> {
    let request: pb::TxnRequest = parse(message)?;
    let checked = check_txn(&request, context.limits.txn_ops_max)
        .and_then(|()| txn_overlap::check(&request.success))
        .and_then(|()| txn_overlap::check(&request.failure));
    let serializable = request
        .success
        .iter()
        .chain(&request.failure)
        .all(|op| matches!(&op.request, Some(OpRequest::RequestRange(range)) if range.serializable));
    let txn = convert::txn(request);
    if !context.space.admits(quota::txn_cost(&txn)) {
        return Err(Error::NoSpace);
    }
    checked?;
    if txn.is_read_only() {
        return Ok(Request::TxnRead { txn, linearizable: !serializable });
    }
    context.write(field::TXN, message, &[], Command::Txn(txn))
}

pub(super) fn compact(context: &mut Context<'_>, message: &Bytes) -> Result<Request, Error> {
    let request: pb::CompactionRequest = parse(message)?;
    let command = Command::Compact { revision: request.revision, physical: request.physical };
    context.write(field::COMPACTION, message, &[], command)
}

fn check_range(request: &pb::RangeRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    let order_known = pb::range_request::SortOrder::try_from(request.sort_order).is_ok();
    let target_known = pb::range_request::SortTarget::try_from(request.sort_target).is_ok();
    if order_known && target_known { Ok(()) } else { Err(Error::InvalidSortOption) }
}

fn check_put(request: &pb::PutRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        Err(Error::EmptyKey)
    } else if request.ignore_value && !request.value.is_empty() {
        Err(Error::ValueProvided)
    } else if request.ignore_lease && request.lease != 0 {
        Err(Error::LeaseProvided)
    } else {
        Ok(())
    }
}

fn check_delete(request: &pb::DeleteRangeRequest) -> Result<(), Error> {
    if request.key.is_empty() { Err(Error::EmptyKey) } else { Ok(()) }
}

/// `budget` operations may be in the longest list; nested transactions get what that list leaves.
fn check_txn(request: &pb::TxnRequest, budget: usize) -> Result<(), Error> {
    let longest = request.compare.len().max(request.success.len()).max(request.failure.len());
    let Some(rest) = budget.checked_sub(longest) else { return Err(Error::TooManyOps) };
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Error::EmptyKey);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(OpRequest::RequestRange(range)) => check_range(range)?,
            Some(OpRequest::RequestPut(put)) => check_put(put)?,
            Some(OpRequest::RequestDeleteRange(delete)) => check_delete(delete)?,
            Some(OpRequest::RequestTxn(txn)) => check_txn(txn, rest)?,
            None => return Err(Error::KeyNotFound),
        }
    }
    Ok(())
}
