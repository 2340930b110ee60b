//! The members table: who belongs to the cluster, under which URLs.
//!
//! Rows are written by conf-change entries (id, peer URLs, learner) and by each member's own publication of its name
//! and client URLs. The value is the JSON that etcd keeps in its `members` bucket and puts into the context of a conf
//! change:
//!
//! ```text
//! {"id":10501334649042878790,"peerURLs":["http://localhost:2380"],"name":"default","clientURLs":["http://localhost:2379"]}
//! ```
//!
//! `isLearner` is there when true, `name` and `clientURLs` once published. The voters and learners of Raft's
//! configuration are those of this table, so it is all that is kept.

use net::pb::etcdserverpb as pb;
use serde_json::Value;

/// One member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: u64,
    /// Where its peers reach it.
    pub peer_urls: Vec<String>,
    /// It does not vote.
    pub is_learner: bool,
    /// Its name; empty until it has started.
    pub name: String,
    /// Where clients reach it; empty until it has started.
    pub client_urls: Vec<String>,
}

/// Bytes that are not a member in JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidMember(pub String);

impl std::fmt::Display for InvalidMember {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "not a member in JSON: {}", self.0)
    }
}

impl std::error::Error for InvalidMember {}

impl Member {
    /// The row's value, and the context of the conf change that adds this member: the bytes of Go's `json.Marshal`.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = format!("{{\"id\":{},\"peerURLs\":", self.id);
        if self.peer_urls.is_empty() {
            out.push_str("null"); // Go's nil slice
        } else {
            push_list(&mut out, &self.peer_urls);
        }
        if self.is_learner {
            out.push_str(",\"isLearner\":true");
        }
        if !self.name.is_empty() {
            out.push_str(",\"name\":");
            push_text(&mut out, &self.name);
        }
        if !self.client_urls.is_empty() {
            out.push_str(",\"clientURLs\":");
            push_list(&mut out, &self.client_urls);
        }
        out.push('}');
        out.into_bytes()
    }

    /// Undoes [`Member::encode`]; unknown names are skipped.
    ///
    /// # Errors
    /// [`InvalidMember`] for anything but an object with a number `id` and fields of the right types.
    pub fn decode(bytes: &[u8]) -> Result<Member, InvalidMember> {
        let json: Value = serde_json::from_slice(bytes).map_err(|e| InvalidMember(e.to_string()))?;
        let invalid = |name: &str| InvalidMember(format!("field {name}"));
        let id = json.get("id").and_then(Value::as_u64).ok_or_else(|| invalid("id"))?;
        let is_learner = match json.get("isLearner") {
            None => false,
            Some(value) => value.as_bool().ok_or_else(|| invalid("isLearner"))?,
        };
        let name = match json.get("name") {
            None => String::new(),
            Some(value) => value.as_str().ok_or_else(|| invalid("name"))?.to_owned(),
        };
        Ok(Member {
            id,
            peer_urls: strings(&json, "peerURLs").ok_or_else(|| invalid("peerURLs"))?,
            is_learner,
            name,
            client_urls: strings(&json, "clientURLs").ok_or_else(|| invalid("clientURLs"))?,
        })
    }

    /// The member as MemberList shows it.
    pub fn to_message(&self) -> pb::Member {
        pb::Member {
            id: self.id,
            name: self.name.clone(),
            peer_ur_ls: self.peer_urls.clone(),
            client_ur_ls: self.client_urls.clone(),
            is_learner: self.is_learner,
        }
    }
}

/// A JSON string as Go writes it: what HTML could take for a tag is escaped.
fn push_text(out: &mut String, text: &str) {
    for c in Value::from(text).to_string().chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", c as u32)),
            _ => out.push(c),
        }
    }
}

fn push_list(out: &mut String, texts: &[String]) {
    out.push('[');
    for (i, text) in texts.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        push_text(out, text);
    }
    out.push(']');
}

/// A list of strings; missing and null mean empty (Go writes a nil slice as null).
fn strings(json: &Value, name: &str) -> Option<Vec<String>> {
    match json.get(name) {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(value) => value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
    }
}

/// Raft's configuration: ids of voters and of learners, ascending.
pub fn voters_and_learners(members: &[Member]) -> (Vec<u64>, Vec<u64>) {
    let ids = |learner: bool| {
        let mut ids: Vec<u64> =
            members.iter().filter(|member| member.is_learner == learner).map(|member| member.id).collect();
        ids.sort_unstable();
        ids
    };
    (ids(false), ids(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_the_json_of_etcd() {
        let fresh = Member { id: u64::MAX, peer_urls: vec!["http://a:1".into()], ..Default::default() };
        let started = Member {
            id: 1,
            peer_urls: vec!["http://a:1".into(), "http://b:1".into()],
            is_learner: true,
            name: "n\"1".into(),
            client_urls: vec!["http://a:2".into()],
        };
        let cases = [
            (Member { id: 7, ..Default::default() }, r#"{"id":7,"peerURLs":null}"#),
            (fresh, r#"{"id":18446744073709551615,"peerURLs":["http://a:1"]}"#),
            (
                Member { id: 1, name: "<&>".into(), ..Default::default() },
                r#"{"id":1,"peerURLs":null,"name":"\u003c\u0026\u003e"}"#,
            ),
            (
                started,
                r#"{"id":1,"peerURLs":["http://a:1","http://b:1"],"isLearner":true,"name":"n\"1","clientURLs":["http://a:2"]}"#,
            ),
        ];
        for (member, want) in cases {
            assert_eq!(Member::decode(&member.encode()).unwrap(), member);
            assert_eq!(std::str::from_utf8(&member.encode()), Ok(want));
        }
    }

    #[test]
    fn etcds_own_spellings_are_read_and_others_refused() {
        let good = Member::decode(br#"{"id":5,"peerURLs":null,"clientURLs":null,"extra":{}}"#).unwrap();
        assert_eq!(good, Member { id: 5, ..Default::default() });
        for bad in [
            "",
            "5",
            "{}",
            r#"{"id":"5"}"#,
            r#"{"id":-5}"#,
            r#"{"id":5,"peerURLs":[1]}"#,
            r#"{"id":5,"name":1}"#,
        ] {
            assert!(Member::decode(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
