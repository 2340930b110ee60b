//! What a member says at `/metrics`.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// One scrape.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    text: String,
}

impl Scrape {
    /// Asks the member that listens at `address`.
    ///
    /// # Errors
    /// It doesn't answer.
    pub fn of(address: SocketAddr) -> io::Result<Scrape> {
        let mut socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(Duration::from_secs(30)))?;
        write!(socket, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        socket.read_to_string(&mut text)?;
        Ok(Scrape { text })
    }

    /// The value of a counter or gauge without labels.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }

    /// Cumulative counts of a histogram without labels, by upper bound in µs; the last is unbounded.
    pub fn histogram(&self, name: &str) -> BTreeMap<u64, u64> {
        let start = format!("{name}_bucket{{le=\"");
        let buckets = self.text.lines().filter_map(|line| {
            let (bound, count) = line.strip_prefix(&start)?.split_once("\"} ")?;
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
            Some(((bound * 1e6).round() as u64, count.parse().ok()?))
        });
        buckets.collect()
    }
}

/// The bound of the bucket that holds `quantile` of what was counted between two scrapes, and how much that was.
pub fn quantile(
    before: &BTreeMap<u64, u64>,
    after: &BTreeMap<u64, u64>,
    quantile: f64,
) -> Option<(u64, u64)> {
    let counts = || after.iter().map(|(bound, count)| (*bound, count - before.get(bound).unwrap_or(&0)));
    let total = counts().next_back()?.1;
    let wanted = (total as f64 * quantile).ceil() as u64;
    let (bound, _) = counts().find(|(_, count)| *count >= wanted.max(1))?;
    Some((bound, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_of_what_came_between_two_scrapes() {
        let scrape = |one: u64, two: u64, all: u64| {
            let text = format!(
                "h_bucket{{le=\"0.001\"}} {one}\nh_bucket{{le=\"0.005\"}} {two}\nh_bucket{{le=\"+Inf\"}} {all}\nc 7\n"
            );
            Scrape { text }
        };
        let (before, after) = (scrape(10, 10, 10), scrape(1008, 1010, 1010));
        assert_eq!(after.value("c"), Some(7.0));
        let of = |wanted| quantile(&before.histogram("h"), &after.histogram("h"), wanted);
        assert_eq!(of(0.99), Some((1_000, 1_000)));
        assert_eq!(of(0.999), Some((5_000, 1_000)));
        assert_eq!(quantile(&after.histogram("h"), &after.histogram("h"), 0.5), None);
    }
}
