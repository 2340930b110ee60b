//! `store check`: every page of a stopped server's tree file.

use std::io::Write;
use std::path::Path;

use engine::tree::{OpenError, Table, verify};

use crate::data_dir::DataDir;

/// Prints what is in the tree file and all that is wrong with it; an error if anything is.
pub fn run(data_dir: &Path, out: &mut impl Write) -> Result<(), String> {
    let dir = DataDir::open(data_dir)?;
    let text = |error: std::io::Error| error.to_string();
    let report = match verify(&dir.tree()?) {
        Ok(report) => report,
        Err(OpenError::Empty { torn: None }) => {
            return writeln!(out, "no checkpoint yet: all there is, is in the log").map_err(text);
        }
        Err(error) => return Err(format!("the tree file can't be read at all: {error}")),
    };
    let identity = report.identity;
    writeln!(out, "cluster {:x}, member {:x}", identity.cluster, identity.member).map_err(text)?;
    writeln!(out, "checkpoint {}, {} pages in use", report.checkpoint, report.pages).map_err(text)?;
    for (table, rows) in Table::ALL.iter().zip(report.rows) {
        writeln!(out, "{table:?}: {rows} rows").map_err(text)?;
    }
    for finding in &report.findings {
        writeln!(out, "{finding}").map_err(text)?;
    }
    match report.finding_count {
        0 => writeln!(out, "all is as it must be").map_err(text),
        count => Err(format!("{count} findings: restore a backup, or start with an empty data directory")),
    }
}
