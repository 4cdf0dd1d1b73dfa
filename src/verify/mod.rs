//! (in the making)
use crate::error::Result;
use crate::report::VerifyReport;
pub(crate) fn verify(_: &rusqlite::Connection, _: &dyn Fn(u64)) -> Result<VerifyReport> {
    Ok(VerifyReport::default())
}
