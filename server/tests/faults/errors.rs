//! I/O that fails: an error of the log or of a sync ends the process at once with its own code, and nothing that was not
//! done has been reported as done.

use std::time::Duration;

use testkit::pb::{AlarmRequest, PutRequest, alarm_request::AlarmAction};
use testkit::within;

use crate::load::Known;
use crate::{directory, options};

/// The server dies of `fault` with this exit code and this in its last words; the next one has everything.
async fn fails(fault: &str, code: i32, says: &[&str]) {
    let dir = directory();
    let mut known = Known::new();
    let mut server = options(dir.path()).env("RINGD_FAILPOINTS", fault).spawn();
    let status = known.load_until_death(&mut server).await;
    let log = server.log();
    assert_eq!(status.code(), Some(code), "{fault}: {status}\n{log}");
    for text in says {
        assert!(log.contains(text), "{fault}: the log says {text}:\n{log}");
    }
    assert!(known.acknowledged() > 20, "{fault}: that was no load");
    let mut server = options(dir.path()).start();
    known.check(&server).await;
    server.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_a_log_write_ends_the_process() {
    // Nothing written and the error; all written and the error.
    fails("log-write=eio@150", 22, &["log segment", ".seg", "os error 5"]).await;
    fails("log-write-report=eio@150", 22, &["log segment", ".seg", "os error 5"]).await;
    fails("log-write=enospc@150", 22, &["log segment", ".seg", "os error 28"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_a_checkpoint_ends_the_process() {
    for fault in ["checkpoint-write", "checkpoint-sync", "checkpoint-meta-write", "checkpoint-meta-sync"] {
        fails(&format!("{fault}=eio@2"), 24, &["tree file", "os error 5"]).await;
    }
    fails("checkpoint-sync=enospc@2", 24, &["tree file", "os error 28"]).await;
}

/// It is tried again; only a full disk is a reason to refuse writes.
#[tokio::test]
async fn a_segment_that_cannot_be_made_is_no_alarm() {
    let dir = directory();
    let server = options(dir.path()).env("RINGD_FAILPOINTS", "segment-write=eio@2").start();
    let failed = async {
        while !server.log().contains("failed to prepare a log segment") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(within(Duration::from_secs(20), failed).await.is_some(), "{}", server.log());
    let mut client = server.client().await;
    let put = PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
    client.kv.put(put).await.expect("there is room");
    let list = AlarmRequest { action: AlarmAction::Get as i32, ..Default::default() };
    assert_eq!(client.maintenance.alarm(list).await.unwrap().into_inner().alarms, []);
}
