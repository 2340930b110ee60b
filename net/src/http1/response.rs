//! The answer to a request with `Connection: close`, for a client that asks once.

use super::{HEADER_FIELDS_MAX, HEADER_SIZE_MAX};

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// Why bytes are no answer that is taken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadResponse(pub &'static str);

impl Response {
    /// Reads an answer from everything received so far. `ended`: nothing follows. `None`: more must come.
    ///
    /// # Errors
    /// What it breaks. Chunked bodies are not taken: nothing that is asked here sends them.
    pub fn parse(input: &[u8], ended: bool, body_bytes_max: usize) -> Result<Option<Response>, BadResponse> {
        let mut fields = [httparse::EMPTY_HEADER; HEADER_FIELDS_MAX];
        let mut parsed = httparse::Response::new(&mut fields);
        let size = match parsed.parse(input) {
            Ok(httparse::Status::Complete(size)) if size <= HEADER_SIZE_MAX => size,
            Ok(httparse::Status::Partial) if input.len() <= HEADER_SIZE_MAX && !ended => return Ok(None),
            Ok(httparse::Status::Partial) if ended => return Err(BadResponse("it ends in its head")),
            Ok(_) => return Err(BadResponse("its head is too large")),
            Err(_) => return Err(BadResponse("it is not HTTP/1.1")),
        };
        let Some(status) = parsed.code else { return Err(BadResponse("it has no status")) };
        let mut headers = Vec::new();
        for field in parsed.headers.iter() {
            let value = std::str::from_utf8(field.value).map_err(|_| BadResponse("a field is not text"))?;
            headers.push((field.name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let response = Response { status, headers, body: Vec::new() };
        if response.header("transfer-encoding").is_some() {
            return Err(BadResponse("its body is encoded"));
        }
        let body = &input[size..];
        let length = match response.header("content-length") {
            None => None,
            Some(text) => Some(super::digits(text).ok_or(BadResponse("its length is no number"))?),
        };
        if body.len() > body_bytes_max || length.is_some_and(|length| length > body_bytes_max as u64) {
            return Err(BadResponse("it is too large"));
        }
        match length {
            Some(length) if (body.len() as u64) < length && ended => Err(BadResponse("it ends in its body")),
            Some(length) if (body.len() as u64) < length => Ok(None),
            Some(length) => Ok(Some(Response { body: body[..length as usize].to_vec(), ..response })),
            None if !ended => Ok(None),
            None => Ok(Some(Response { body: body.to_vec(), ..response })),
        }
    }

    /// The value of a field, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_whole_or_not_at_all() {
        let large = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "x".repeat(HEADER_SIZE_MAX));
        let bad = |why| Err(BadResponse(why));
        type Case = (&'static str, bool, Result<Option<&'static str>, BadResponse>);
        let cases: [Case; 12] = [
            ("", false, Ok(None)),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", false, Ok(None)),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabc", false, Ok(Some("ab"))),
            ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", false, Ok(Some(""))),
            ("HTTP/1.0 200 OK\r\n\r\nab", false, Ok(None)),
            ("HTTP/1.0 200 OK\r\n\r\nab", true, Ok(Some("ab"))),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na", true, bad("it ends in its body")),
            ("HTTP/1.1 200 OK\r\nContent-Le", true, bad("it ends in its head")),
            ("HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\na", true, bad("its length is no number")),
            ("HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\na", false, bad("it is too large")),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false, bad("its body is encoded")),
            ("\x15\x03\x01\x00\x02", false, bad("it is not HTTP/1.1")),
        ];
        for (input, ended, want) in cases {
            let got = Response::parse(input.as_bytes(), ended, 100);
            let got = got.map(|response| response.map(|r| String::from_utf8_lossy(&r.body).into_owned()));
            assert_eq!(got, want.map(|body| body.map(str::to_owned)), "{input:?}");
        }
        let parsed = Response::parse(large.as_bytes(), false, 100);
        assert_eq!(parsed, Err(BadResponse("its head is too large")));
        let named =
            Response::parse(b"HTTP/1.1 200 OK\r\nX-Etcd-Cluster-ID: c1\r\n\r\n", true, 0).unwrap().unwrap();
        assert_eq!(named.header("x-etcd-cluster-id"), Some("c1"));
    }
}
