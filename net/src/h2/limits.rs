//! Every bound of this machine, by name. The principle: a peer may cost memory and CPU only in proportion to bytes it
//! sent, and whatever is queued because of a peer's frame counts against that peer. When a budget is reached, first stop
//! reading, then close.

use std::time::Duration;

/// Largest frame payload we accept (SETTINGS_MAX_FRAME_SIZE, RFC 9113's initial value) and the largest we send.
pub const FRAME_SIZE_MAX: usize = 16_384;
/// HPACK dynamic table, in both directions, whatever the peer would allow (SETTINGS_HEADER_TABLE_SIZE).
pub const HEADER_TABLE_SIZE: usize = 4096;
/// SETTINGS_INITIAL_WINDOW_SIZE: what a stream may send before it is read.
pub const STREAM_WINDOW: u32 = 1 << 20;
/// Window of the whole connection.
pub const CONNECTION_WINDOW: u32 = 4 << 20;
/// Streams open at once, whatever `--max-concurrent-streams` allows; beyond that REFUSED_STREAM.
pub const STREAMS_OPEN_MAX: usize = 65_536;
/// Calls handed to the server and not yet answered, per connection; the rest wait.
pub const EXECUTING_MAX: usize = 4096;
/// From this stream id on the client is asked to reconnect (GOAWAY NO_ERROR) before ids run out.
pub const STREAM_ID_DRAIN: u32 = 1 << 30;

/// Advertised SETTINGS_MAX_HEADER_LIST_SIZE (name + value + 32 per field); larger: the stream is refused.
pub const HEADER_LIST_SIZE_MAX: usize = 16_384;
/// A header list beyond this closes the connection: decoding stops right there.
pub const HEADER_LIST_SIZE_FATAL: usize = 65_536;
/// Fields of one header block; more: the stream is refused.
pub const HEADER_FIELDS_MAX: usize = 100;
/// Encoded bytes of one header block.
pub const HEADER_BLOCK_SIZE_MAX: usize = 65_536;
/// CONTINUATION frames of one header block.
pub const CONTINUATION_FRAMES_MAX: u32 = 8;
/// A header block must be complete within this time.
pub const HEADER_BLOCK_TIME: Duration = Duration::from_secs(10);

/// The client's preface must be complete within this time.
pub const PREFACE_TIME: Duration = Duration::from_secs(10);
/// The first SETTINGS must follow the preface within this time.
pub const FIRST_SETTINGS_TIME: Duration = Duration::from_secs(5);
/// Our SETTINGS must be acknowledged within this time.
pub const SETTINGS_ACK_TIME: Duration = Duration::from_secs(10);
/// Entries of one SETTINGS frame.
pub const SETTINGS_ENTRIES_MAX: usize = 32;
/// SETTINGS frames that cost nothing.
pub const SETTINGS_FRAMES_FREE: u32 = 10;
/// SETTINGS frames per second after those.
pub const SETTINGS_FRAMES_PER_SECOND: u32 = 10;

/// Control frames waiting to be written (acks, resets, window updates): from here on reading stops.
pub const CONTROL_FRAMES_PAUSE: usize = 100;
/// From here on the connection is closed.
pub const CONTROL_FRAMES_MAX: usize = 1000;
/// Bytes of answers queued per connection: beyond this no further request is started.
pub const OUTPUT_BYTES_MAX: usize = 4 << 20;
/// Short answers are written straight into the connection's buffer while it is smaller than this.
pub const READY_BYTES_MAX: usize = 1 << 20;
/// An answer of at most this size goes before bulk data.
pub const SHORT_ANSWER_BYTES: usize = 16_384;
/// Bytes of incomplete request messages per connection; the stream that would exceed it is refused.
pub const ASSEMBLY_BYTES_MAX: usize = 64 << 20;
/// Requests received and not yet started, per connection: beyond this reading stops, or, if the peer also takes no
/// answers, new streams are refused.
pub const WAITING_BYTES_MAX: usize = 4 << 20;

/// Resets by the peer before any response, within [`RESET_PERIOD`], that close the connection if they are also more
/// than half of the streams opened in it (CVE-2023-44487).
pub const RESETS_MAX: u32 = 500;
/// See [`RESETS_MAX`].
pub const RESET_PERIOD: Duration = Duration::from_secs(1);
/// Stream errors that we answer at once with RST_STREAM ...
pub const STREAM_ERRORS_BURST: u32 = 100;
/// ... and then per second; beyond that GOAWAY ENHANCE_YOUR_CALM (CVE-2025-8671).
pub const STREAM_ERRORS_PER_SECOND: u32 = 10;
/// For this long frames on a stream that we reset are ignored, because the peer may not know yet.
pub const RESET_MEMORY_TIME: Duration = Duration::from_secs(10);
/// That many such streams are remembered.
pub const RESET_MEMORY_MAX: usize = 1024;
/// PRIORITY frames per (1 + streams opened).
pub const PRIORITY_FRAMES_PER_STREAM: u64 = 100;
/// Empty DATA, HEADERS or CONTINUATION frames that end nothing, in a row.
pub const EMPTY_FRAMES_IN_A_ROW: u32 = 10;
/// The same in all.
pub const EMPTY_FRAMES_MAX: u32 = 100;
/// DATA frames smaller than this draw on the small-frame budget by what they lack.
pub const SMALL_FRAME_SIZE: usize = 256;
/// The small-frame budget in bytes; larger frames and consumed messages refill it.
pub const SMALL_FRAME_BUDGET: usize = SMALL_FRAME_SIZE * 100;
/// WINDOW_UPDATE frames: this many, plus two for every stream and twenty for every DATA frame sent.
pub const WINDOW_UPDATES_FREE: u64 = 5;

/// An answer whose peer takes nothing for this long is reset.
pub const STALL_TIME: Duration = Duration::from_secs(60);
/// How often streams are looked at for stalls.
pub const STALL_CHECK_PERIOD: Duration = Duration::from_secs(5);
/// After the first GOAWAY of a graceful end, how long the final one waits for the client to have seen it (stopping must
/// not take longer than a second in all).
pub const DRAIN_NOTICE_TIME: Duration = Duration::from_millis(250);

const _: () = assert!(HEADER_LIST_SIZE_MAX <= HEADER_LIST_SIZE_FATAL);
const _: () = assert!(CONTROL_FRAMES_PAUSE < CONTROL_FRAMES_MAX);
const _: () = assert!(STREAM_WINDOW <= CONNECTION_WINDOW);
const _: () = assert!(CONTINUATION_FRAMES_MAX as usize * FRAME_SIZE_MAX >= HEADER_BLOCK_SIZE_MAX);
