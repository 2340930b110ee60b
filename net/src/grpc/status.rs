//! Status of a call: code, text, and the text's form on the wire.
//!
//! `grpc-message` is percent-encoded as gRPC's "Responses" section says: bytes outside 0x20..=0x7E and `%` become
//! `%XX`. The encoded text is cut at [`MESSAGE_SIZE_MAX`], never inside an escape.

use std::borrow::Cow;

/// The longest `grpc-message` sent, in encoded bytes.
pub const MESSAGE_SIZE_MAX: usize = 4096;

/// gRPC's canonical status codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Code {
    /// The call succeeded.
    Ok = 0,
    /// The caller went away.
    Canceled = 1,
    /// An error without a better code.
    Unknown = 2,
    /// The request can never be valid.
    InvalidArgument = 3,
    /// The deadline passed; the outcome is unknown.
    DeadlineExceeded = 4,
    /// No such thing.
    NotFound = 5,
    /// It exists already.
    AlreadyExists = 6,
    /// Known caller without the right.
    PermissionDenied = 7,
    /// A limit or quota is reached.
    ResourceExhausted = 8,
    /// The system is not in the state this call needs.
    FailedPrecondition = 9,
    /// Given up because of a conflict.
    Aborted = 10,
    /// Outside of the valid range (a revision, say).
    OutOfRange = 11,
    /// No such method, or not served here.
    Unimplemented = 12,
    /// An invariant is broken.
    Internal = 13,
    /// Not now; trying again may help.
    Unavailable = 14,
    /// Data is lost or damaged.
    DataLoss = 15,
    /// No valid identity.
    Unauthenticated = 16,
}

impl Code {
    /// The code of a decimal `grpc-status` value; what gRPC does not define is `Unknown`.
    pub fn from_wire(value: &[u8]) -> Code {
        let number = std::str::from_utf8(value).ok().and_then(|text| text.parse::<u8>().ok());
        number.and_then(|n| Code::ALL.get(usize::from(n)).copied()).unwrap_or(Code::Unknown)
    }

    /// Every code, in the order of their numbers.
    pub const ALL: [Code; 17] = [
        Code::Ok,
        Code::Canceled,
        Code::Unknown,
        Code::InvalidArgument,
        Code::DeadlineExceeded,
        Code::NotFound,
        Code::AlreadyExists,
        Code::PermissionDenied,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
        Code::Aborted,
        Code::OutOfRange,
        Code::Unimplemented,
        Code::Internal,
        Code::Unavailable,
        Code::DataLoss,
        Code::Unauthenticated,
    ];

    /// The decimal text of `grpc-status`.
    pub fn wire(self) -> &'static str {
        const TEXT: [&str; 17] =
            ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16"];
        TEXT[self as usize]
    }
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The canonical code.
    pub code: Code,
    /// Text for the client. Error texts are etcd's, because clients compare them.
    pub message: Cow<'static, str>,
}

impl Status {
    /// Success without a text.
    pub const OK: Status = Status { code: Code::Ok, message: Cow::Borrowed("") };

    /// A status of `code` with `message`.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Status {
        Status { code, message: message.into() }
    }
}

/// `message` in the form `grpc-message` has on the wire.
pub fn percent_encode(message: &str) -> Cow<'_, str> {
    let plain = |b: u8| (0x20..=0x7e).contains(&b) && b != b'%';
    if message.len() <= MESSAGE_SIZE_MAX && message.bytes().all(plain) {
        return Cow::Borrowed(message);
    }
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(message.len().min(MESSAGE_SIZE_MAX));
    for b in message.bytes() {
        let size = if plain(b) { 1 } else { 3 };
        if out.len() + size > MESSAGE_SIZE_MAX {
            break;
        }
        if plain(b) {
            out.push(char::from(b));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(b >> 4)]));
            out.push(char::from(HEX[usize::from(b & 15)]));
        }
    }
    Cow::Owned(out)
}

/// Undoes [`percent_encode`]. As gRPC asks, what is no valid escape stays as it is; bytes that are no UTF-8 are
/// replaced.
pub fn percent_decode(wire: &[u8]) -> String {
    let hex = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16));
    let mut out = Vec::with_capacity(wire.len());
    let mut at = 0;
    while let Some(&b) = wire.get(at) {
        match (b, hex(wire.get(at + 1)), hex(wire.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                out.push(b);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_percent_encoded_and_come_back() {
        let cases = [
            ("etcdserver: key is not provided", "etcdserver: key is not provided"),
            ("100%", "100%25"),
            ("a\nb", "a%0Ab"),
            ("schlüssel", "schl%C3%BCssel"),
            ("~", "~"),
            ("\u{7f}", "%7F"),
        ];
        for (text, wire) in cases {
            assert_eq!(percent_encode(text), wire);
            assert_eq!(percent_decode(wire.as_bytes()), text);
        }
    }

    #[test]
    fn a_long_message_is_cut_but_never_inside_an_escape() {
        let text = "\n".repeat(3000);
        let wire = percent_encode(&text);
        assert_eq!(wire.len(), MESSAGE_SIZE_MAX / 3 * 3);
        assert!(wire.ends_with("%0A"));
        assert_eq!(percent_encode(&"x".repeat(5000)).len(), MESSAGE_SIZE_MAX);
    }

    #[test]
    fn broken_escapes_stay_as_they_are() {
        for (wire, want) in [("%", "%"), ("%4", "%4"), ("%zz", "%zz"), ("a%41", "aA"), ("%FF", "\u{fffd}")] {
            assert_eq!(percent_decode(wire.as_bytes()), want);
        }
    }

    #[test]
    fn codes_have_their_numbers() {
        for (number, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, number);
            assert_eq!(code.wire(), number.to_string());
            assert_eq!(Code::from_wire(code.wire().as_bytes()), code);
        }
        for odd in ["17", "", "-1", "999", "x"] {
            assert_eq!(Code::from_wire(odd.as_bytes()), Code::Unknown);
        }
    }
}
