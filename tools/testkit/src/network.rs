//! A network of its own for each member, in which what one sends to another can be lost.
//!
//! Every member lives in a network namespace with one interface, whose other end is a port of a bridge in the namespace of
//! the test, where the clients are. A cut is a wrong hardware address: the sender's entry for the receiver names a machine
//! that is not there, so frames go out and nobody takes them, as on a cable that is broken in one direction. Nothing is
//! refused, no interface goes down, connections only fall silent. This needs `ip` and nothing of the kernel that is not
//! in every build (classifiers of `tc` and filters of bridges are not).
//!
//! Whoever made a network may end in any way. So a process outside of the test's group cleans up: it waits until its
//! standard input is closed, as by a drop or by the kernel when the test is killed.

use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

/// See the module's header.
#[derive(Debug)]
pub struct Network {
    name: String,
    subnet: [u8; 3],
    size: usize,
    janitor: Child,
}

/// Networks made by this process: the next one's number.
static NEXT: Mutex<u8> = Mutex::new(0);

/// A hardware address that nobody has.
const NOBODY: &str = "02:72:64:ff:ff:ff";

impl Network {
    /// A network for members `0..size`, in which all reach all.
    ///
    /// # Panics
    /// If it can't be made, as for somebody who is not root.
    pub fn new(size: usize) -> Network {
        assert!(
            rustix::process::geteuid().is_root(),
            "this test makes network namespaces, which needs root: run it (or tools/check) as root"
        );
        let mut next = NEXT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let name = format!("rd{}-{}", std::process::id(), *next);
        *next = next.checked_add(1).expect("fewer than 256 networks in one test process");
        let janitor = janitor(&name, size);
        // Clean up from here on, whatever fails.
        let network = Network { subnet: unused_subnet(), name, size, janitor };
        network.make();
        network
    }

    /// Address of member `i`.
    pub fn address(&self, i: usize) -> Ipv4Addr {
        let [a, b, c] = self.subnet;
        Ipv4Addr::new(a, b, c, i as u8 + 1)
    }

    /// Network namespace of member `i`.
    pub fn namespace(&self, i: usize) -> String {
        namespace(&self.name, i)
    }

    /// From now on nothing that `from` sends reaches `to`.
    pub fn cut(&self, from: usize, to: usize) {
        self.neighbour(from, to, NOBODY);
    }

    /// Nothing passes between `one` and `other`.
    pub fn cut_both_ways(&self, one: usize, other: usize) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// `member` and all others don't reach each other.
    pub fn isolate(&self, member: usize) {
        (0..self.size).filter(|i| *i != member).for_each(|i| self.cut_both_ways(member, i));
    }

    /// All reach all.
    pub fn heal(&self) {
        for from in 0..self.size {
            for to in (0..self.size).filter(|to| *to != from) {
                self.neighbour(from, to, &self.hardware_address(to));
            }
        }
    }

    fn make(&self) {
        let [a, b, c] = self.subnet;
        let bridge = &self.name;
        ip(&["link", "add", bridge, "type", "bridge"]);
        ip(&["addr", "add", &format!("{a}.{b}.{c}.254/24"), "dev", bridge]);
        ip(&["link", "set", bridge, "up"]);
        for i in 0..self.size {
            let (namespace, port) = (self.namespace(i), format!("{bridge}v{i}"));
            ip(&["netns", "add", &namespace]);
            let hardware_address = self.hardware_address(i);
            ip(&[
                &["link", "add", &port, "type", "veth", "peer", "name", "eth0"][..],
                &["address", &hardware_address, "netns", &namespace],
            ]
            .concat());
            ip(&["link", "set", &port, "master", bridge, "up"]);
            ip(&["-n", &namespace, "link", "set", "lo", "up"]);
            ip(&["-n", &namespace, "addr", "add", &format!("{}/24", self.address(i)), "dev", "eth0"]);
            ip(&["-n", &namespace, "link", "set", "eth0", "up"]);
        }
        self.heal();
    }

    fn hardware_address(&self, i: usize) -> String {
        format!("02:72:64:00:00:{:02x}", i + 1)
    }

    fn neighbour(&self, of: usize, to: usize, hardware_address: &str) {
        let (namespace, address) = (self.namespace(of), self.address(to).to_string());
        let entry = ["lladdr", hardware_address, "nud", "permanent", "dev", "eth0"];
        ip(&[&["-n", &namespace, "neigh", "replace", &address][..], &entry].concat());
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        let ended = self.janitor.wait();
        if !std::thread::panicking() {
            assert!(ended.is_ok_and(|status| status.success()), "{} was not cleaned up", self.name);
        }
    }
}

fn namespace(network: &str, i: usize) -> String {
    format!("{network}m{i}")
}

/// A process that removes all that belongs to the network when its standard input ends. It fails if something is left.
fn janitor(network: &str, size: usize) -> Child {
    let namespaces: Vec<String> = (0..size).map(|i| namespace(network, i)).collect();
    let script = "cat >/dev/null; bridge=$1; shift
        for i in \"$@\"; do ip netns pids \"$i\" 2>/dev/null | xargs -r kill -9; ip netns del \"$i\" 2>/dev/null; done
        ip link del \"$bridge\" 2>/dev/null
        for i in \"$@\"; do [ ! -e \"/run/netns/$i\" ] || exit 1; done
        [ ! -e \"/sys/class/net/$bridge\" ]";
    Command::new("sh")
        .args(["-c", script, "janitor", network])
        .args(namespaces)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("sh can be run")
}

/// The first three bytes of a network that no interface here is in, of those that are for tests of networks (RFC 2544).
fn unused_subnet() -> [u8; 3] {
    let here = ip(&["-4", "-o", "addr", "show"]);
    let first = std::process::id() as usize;
    let mut all = (0..512).map(|i| (first + i) % 512).map(|i| [198, 18 + (i / 256) as u8, (i % 256) as u8]);
    all.find(|[a, b, c]| !here.contains(&format!(" {a}.{b}.{c}."))).expect("512 of them")
}

/// Runs `ip`; what it prints.
fn ip(args: &[&str]) -> String {
    let output = Command::new("ip").args(args).output();
    let output = output.unwrap_or_else(|error| panic!("ip (Debian's iproute2) can't be run: {error}"));
    assert!(output.status.success(), "ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a datagram gets from one to the other; nothing has to come back for that.
    fn passes(network: &Network, from: usize, to: usize) -> bool {
        let received = || {
            let snmp = exec(network, to, "cat /proc/net/snmp");
            let udp = snmp.lines().filter(|line| line.starts_with("Udp:")).nth(1).expect("counters of UDP");
            // Nobody listens on the port, so it counts as NoPorts.
            udp.split(' ').nth(2).expect("NoPorts").parse::<u64>().expect("a number")
        };
        let before = received();
        exec(network, from, &format!("echo x > /dev/udp/{}/9", network.address(to)));
        std::thread::sleep(std::time::Duration::from_millis(100));
        received() > before
    }

    fn exec(network: &Network, i: usize, script: &str) -> String {
        ip(&["netns", "exec", &network.namespace(i), "bash", "-c", script])
    }

    #[test]
    fn cuts_are_one_way_until_they_heal_and_nothing_stays_behind() {
        let network = Network::new(3);
        let name = network.name.clone();
        assert!(passes(&network, 0, 1) && passes(&network, 1, 0));
        network.cut(0, 1);
        assert!(!passes(&network, 0, 1) && passes(&network, 1, 0) && passes(&network, 0, 2));
        network.heal();
        assert!(passes(&network, 0, 1));
        network.isolate(2);
        assert!(!passes(&network, 0, 2) && !passes(&network, 2, 1) && passes(&network, 0, 1));
        drop(network);
        // The kernel takes a namespace's links down some time after the namespace has lost its name.
        let remains = || ip(&["netns", "list"]).contains(&name) || ip(&["link", "show"]).contains(&name);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while remains() && std::time::Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        assert!(!remains());
    }
}
