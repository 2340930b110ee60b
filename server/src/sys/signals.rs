//! SIGTERM and SIGINT ask us to stop. The first one starts an orderly end; a second one, from somebody who can't wait,
//! ends the process at once.
//!
//! The main thread runs no executor, so it can wait here and then wake those that do. `signal-hook` writes into a pipe
//! from the handler, which is all that may be done there.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

/// Exit code after a second signal: 128 and SIGTERM's number, as shells count.
const IMPATIENT: i32 = 143;

/// The registered handlers.
#[derive(Debug)]
pub struct Signals {
    pipe: std::os::unix::net::UnixStream,
    /// Kept open: the handlers write to a duplicate of it, and a reader must not see its end.
    sender: std::os::unix::net::UnixStream,
    stopping: Arc<AtomicBool>,
}

impl Signals {
    /// Registers the handlers. Once per process, before executors start.
    ///
    /// # Errors
    /// If the process has no descriptor left.
    pub fn install() -> io::Result<Signals> {
        let (pipe, sender) = std::os::unix::net::UnixStream::pair()?;
        let stopping = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // In this order: the first signal finds the flag down, sets it, and wakes us.
            signal_hook::flag::register_conditional_shutdown(signal, IMPATIENT, stopping.clone())?;
            signal_hook::flag::register(signal, stopping.clone())?;
            signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
        }
        Ok(Signals { pipe, sender, stopping })
    }

    /// Blocks until a signal has come or [`Stop::stop`] was called.
    ///
    /// # Errors
    /// If the pipe is broken, which would be a bug.
    pub fn wait(&self) -> io::Result<()> {
        let mut byte = [0];
        loop {
            match io::Read::read(&mut &self.pipe, &mut byte) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether a signal has come.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// A handle that ends [`Signals::wait`] from inside, for a part that can't go on.
    ///
    /// # Errors
    /// If the process has no descriptor left.
    pub fn stop_handle(&self) -> io::Result<Stop> {
        Ok(Stop { sender: self.sender.try_clone()? })
    }
}

impl AsFd for Signals {
    /// Readable once a signal has come.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.pipe.as_raw_fd()
    }
}

/// Ends [`Signals::wait`] without a signal.
#[derive(Debug)]
pub struct Stop {
    sender: std::os::unix::net::UnixStream,
}

impl Stop {
    /// Ends the wait. Further calls do nothing.
    pub fn stop(&self) {
        let _ = io::Write::write(&mut &self.sender, &[0]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test, because handlers belong to the whole process.
    #[test]
    fn a_signal_and_a_handle_both_end_the_wait() {
        let signals = Signals::install().expect("descriptors");
        signals.stop_handle().expect("a descriptor").stop();
        signals.wait().expect("stopped from inside");
        assert!(!signals.is_stopping());
        signal_hook::low_level::raise(SIGTERM).expect("a signal for ourselves");
        signals.wait().expect("stopped by the signal");
        assert!(signals.is_stopping());
    }
}
