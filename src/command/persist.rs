//! The commands on the data file: compaction, syncing, and when that last was.

use super::spec::{
    Flag::{Fast, NoMulti},
    Group, Spec,
};
use super::{Call, CommandError, is};
use crate::engine::Txn;

type Result = std::result::Result<(), CommandError>;

pub const BGREWRITEAOF: Spec = Spec::new(Group::Server, "1.0.0", "BGREWRITEAOF")
    .summary("Compacts the data file, while clients go on.")
    .needs_file()
    .example("BGREWRITEAOF");

pub fn bgrewriteaof<T: Txn>(call: &mut Call<'_, T>) -> Result {
    if !call.admin.request_compaction() {
        return Err(CommandError::err("Background append only file rewriting already in progress"));
    }
    call.replies.status("Background append only file rewriting started");
    Ok(())
}

pub const BGSAVE: Spec = Spec::new(Group::Server, "1.0.0", "BGSAVE [SCHEDULE]")
    .summary("The same: there is one file.")
    .needs_file()
    .example("BGSAVE");

pub fn bgsave<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let schedule = call.request.words_from(1).all(|word| is(word, "SCHEDULE"));
    if !schedule {
        return Err(CommandError::SYNTAX);
    }
    if call.admin.request_compaction() {
        call.replies.status("Background saving started");
    } else if call.request.len() == 1 {
        return Err(CommandError::err("Background save already in progress"));
    } else {
        call.admin.schedule_compaction();
        call.replies.status("Background saving scheduled");
    }
    Ok(())
}

pub const SAVE: Spec = Spec::new(Group::Server, "1.0.0", "SAVE")
    .flags(&[NoMulti])
    .summary("Waits until everything is on disk, whatever --fsync says.")
    .needs_file()
    .example("SAVE");

pub fn save<T: Txn>(call: &mut Call<'_, T>) -> Result {
    call.admin.save()?;
    call.replies.status("OK");
    Ok(())
}

pub const LASTSAVE: Spec = Spec::new(Group::Server, "1.0.0", "LASTSAVE")
    .flags(&[Fast])
    .summary("Returns when the last SAVE or compaction ended, as Unix time in seconds.")
    .needs_file()
    .example("LASTSAVE");

pub fn lastsave<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let saved_s = call.admin.status().compaction.saved_s;
    call.replies.integer(i64::try_from(saved_s).unwrap_or(i64::MAX));
    Ok(())
}
