//! A member whose disk is full: the others go on, and it catches up when there is room again.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use testkit::pb::{AlarmRequest, AlarmType, MoveLeaderRequest, PutRequest, alarm_request::AlarmAction};
use testkit::{Client, Cluster, SmallDisk};

use crate::ask::{assert_same, others, put, within};
use crate::{options, program};

const VALUE_BYTES: usize = 200_000;

/// More than the log has room for in the segments that it has made ahead.
const PUTS: usize = 450;

/// Fills all that is left.
fn fill(dir: &Path) -> PathBuf {
    let path = dir.join("ballast");
    let mut ballast = File::create(&path).expect("a file");
    let mut piece = vec![1; 1 << 20];
    loop {
        match ballast.write_all(&piece) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull && piece.len() > 4096 => {
                piece.truncate(4096)
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::StorageFull);
                return path;
            }
        }
    }
}

/// Takes alarms off, whoever raised them; how many there were.
async fn disarm(client: &mut Client) -> usize {
    let request = |action: AlarmAction, member_id| AlarmRequest {
        action: action.into(),
        alarm: AlarmType::Nospace.into(),
        member_id,
    };
    let raised =
        client.maintenance.alarm(request(AlarmAction::Get, 0)).await.expect("two of three").into_inner();
    for alarm in &raised.alarms {
        let off = request(AlarmAction::Deactivate, alarm.member_id);
        client.maintenance.alarm(off).await.expect("two of three");
    }
    raised.alarms.len()
}

/// A cluster in which the member with a small disk, `m2`, follows; who leads.
async fn with_small_disk(disk: &SmallDisk) -> (Cluster, usize) {
    let ordinary = options(program()).arg("--ringd-heap-limit=8388608");
    let small = ordinary.clone().data_dir(&disk.path().join("data"));
    let mut cluster = Cluster::spawn_each(vec![ordinary.clone(), ordinary, small], None);
    (0..3).for_each(|i| cluster.member(i).wait_ready());
    let leader = cluster.leader(&[0, 1, 2]).await;
    if leader != 2 {
        return (cluster, leader);
    }
    let target_id = cluster.leader_and_id(0).await.expect("it serves").1;
    let request = MoveLeaderRequest { target_id };
    cluster.client(2).await.maintenance.move_leader(request).await.expect("three of three");
    let leader = cluster.leader(&[0, 1, 2]).await;
    (cluster, leader)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_without_room_harms_nobody_and_catches_up() {
    if !program().is_ringd() {
        return; // etcd ends when it can't write its log; what ringd does instead is its own
    }
    let disk = SmallDisk::new(400);
    let (mut cluster, leader) = with_small_disk(&disk).await;
    let other = others(leader).into_iter().find(|i| *i != 2).expect("two others");
    put(&mut cluster.client(2).await, "before", "1").await.expect("three of three");
    let ballast = fill(&disk.path());

    let mut client = cluster.client(leader).await;
    let (mut acknowledged, mut alarms) = (0, 0);
    for n in 0..PUTS {
        let value = vec![n as u8; VALUE_BYTES];
        let request = PutRequest { key: format!("large/{}", n % 20).into(), value, ..Default::default() };
        match within(Duration::from_secs(10), client.kv.put(request)).await.expect("an answer in time") {
            Ok(_) => acknowledged += 1,
            Err(status) => {
                // A member that has no room says so for all, as etcd's quota does; an operator takes that off.
                assert_eq!(status.message(), "etcdserver: mvcc: database space exceeded", "put {n}");
                alarms += disarm(&mut client).await;
            }
        }
    }
    let ended = cluster.member(2).exited();
    println!("{acknowledged} of {PUTS} puts acknowledged, {alarms} alarms, m2: {ended:?}");
    assert!(acknowledged > PUTS * 9 / 10, "the others have room");
    assert_same(&cluster, &[leader, other]).await;
    assert_eq!(cluster.leader(&[leader, other]).await, leader, "nobody was elected");

    fs::remove_file(ballast).expect("the ballast goes");
    if ended.is_some() {
        cluster.member(2).restart();
    }
    let deadline = Instant::now() + Duration::from_secs(40);
    disarm(&mut client).await;
    let revision = put(&mut client, "after", "1").await.expect("two of three");
    while within(Duration::from_secs(1), put(&mut cluster.client(2).await, "from m2", "1"))
        .await
        .is_none_or(|it| it.is_err())
    {
        assert!(
            Instant::now() < deadline,
            "m2 does not catch up with {revision}:\n{}",
            cluster.members()[2].log()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
        disarm(&mut client).await;
    }
    assert_same(&cluster, &[0, 1, 2]).await;
}
