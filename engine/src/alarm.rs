//! Alarms: NOSPACE and CORRUPT, per member. Raised and cleared by applied requests alone.

use crate::row::{self, BadRow};
use crate::store::Store;
use crate::tree::{Damage, Table};

/// `AlarmType` without its NONE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AlarmKind {
    /// A member is out of quota: writes that grow the store are refused everywhere.
    NoSpace = 1,
    /// A member's data differs from the others'.
    Corrupt = 2,
}

/// One raised alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Alarm {
    /// The member it is about; 0: the whole cluster.
    pub member: u64,
    /// What is wrong.
    pub kind: AlarmKind,
}

impl Store {
    /// Raises an alarm; raising it again changes nothing.
    pub fn alarm_activate(&mut self, alarm: Alarm) -> Result<(), Damage> {
        if self.alarms.insert(alarm) {
            self.tree.put(Table::Meta, &alarm_key(alarm), &[])?;
        }
        Ok(())
    }

    /// Clears an alarm; false if it was not raised.
    pub fn alarm_deactivate(&mut self, alarm: Alarm) -> Result<bool, Damage> {
        let raised = self.alarms.remove(&alarm);
        if raised {
            self.tree.remove(Table::Meta, &alarm_key(alarm))?;
        }
        Ok(raised)
    }

    /// The raised alarms by member and kind; of one kind only, if given.
    pub fn alarms(&self, kind: Option<AlarmKind>) -> Vec<Alarm> {
        self.alarms.iter().filter(|alarm| kind.is_none_or(|kind| alarm.kind == kind)).copied().collect()
    }

    /// Whether any member has raised an alarm of this kind.
    pub fn has_alarm(&self, kind: AlarmKind) -> bool {
        self.alarms.iter().any(|alarm| alarm.kind == kind)
    }

    pub(crate) fn load_alarms(&mut self) -> Result<(), Damage> {
        let mut rows = self.tree.cursor(Table::Meta);
        let mut found = rows.seek(row::META_ALARM)?;
        while found {
            let Some(name) = rows.key().strip_prefix(row::META_ALARM) else { break };
            self.alarms.insert(decode_alarm(name).ok_or(BadRow.of(Table::Meta))?);
            found = rows.next()?;
        }
        Ok(())
    }
}

fn alarm_key(alarm: Alarm) -> Vec<u8> {
    [row::META_ALARM, &alarm.member.to_be_bytes(), &[alarm.kind as u8]].concat()
}

fn decode_alarm(name: &[u8]) -> Option<Alarm> {
    let (member, kind) = name.split_first_chunk::<8>()?;
    let kind = match kind {
        [1] => AlarmKind::NoSpace,
        [2] => AlarmKind::Corrupt,
        _ => return None,
    };
    Some(Alarm { member: u64::from_be_bytes(*member), kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarm_rows_are_golden() {
        for (alarm, want) in [
            (Alarm { member: 0x0102, kind: AlarmKind::NoSpace }, b"alarm/\0\0\0\0\0\0\x01\x02\x01"),
            (Alarm { member: 0, kind: AlarmKind::Corrupt }, b"alarm/\0\0\0\0\0\0\0\0\x02"),
        ] {
            assert_eq!(alarm_key(alarm), want);
            assert_eq!(decode_alarm(&want[row::META_ALARM.len()..]), Some(alarm));
        }
        for name in [&b""[..], b"12345678", b"12345678\x03", b"12345678\x01\x01"] {
            assert_eq!(decode_alarm(name), None, "{name:?}");
        }
    }
}
