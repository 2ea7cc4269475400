//! The commands on the data file: compaction, syncing, and when that last was.

use super::spec::{
    Flag::{Fast, NoMulti},
    Group, Spec,
};
use super::{CommandError, Context, is};
use crate::protocol::request::Request;

type Result = std::result::Result<(), CommandError>;

pub const BGREWRITEAOF: Spec = Spec::new(Group::Server, "1.0.0", "BGREWRITEAOF")
    .summary("Compacts the data file, while clients go on.")
    .example("BGREWRITEAOF");

pub fn bgrewriteaof(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    if !context.session.engine().request_compaction() {
        return Err(CommandError::err("Background append only file rewriting already in progress"));
    }
    context.replies.status("Background append only file rewriting started");
    Ok(())
}

pub const BGSAVE: Spec = Spec::new(Group::Server, "1.0.0", "BGSAVE [SCHEDULE]")
    .summary("The same: there is one file.")
    .example("BGSAVE");

pub fn bgsave(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let schedule = request.words_from(1).all(|word| is(word, "SCHEDULE"));
    if !schedule {
        return Err(CommandError::SYNTAX);
    }
    let engine = context.session.engine();
    if engine.request_compaction() {
        context.replies.status("Background saving started");
    } else if request.len() == 1 {
        return Err(CommandError::err("Background save already in progress"));
    } else {
        engine.schedule_compaction();
        context.replies.status("Background saving scheduled");
    }
    Ok(())
}

pub const SAVE: Spec = Spec::new(Group::Server, "1.0.0", "SAVE")
    .flags(&[NoMulti])
    .summary("Waits until everything is on disk, whatever --fsync says.")
    .example("SAVE");

pub fn save(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    context.session.engine().save()?;
    context.replies.status("OK");
    Ok(())
}

pub const LASTSAVE: Spec = Spec::new(Group::Server, "1.0.0", "LASTSAVE")
    .flags(&[Fast])
    .summary("Returns when the last SAVE or compaction ended, as Unix time in seconds.")
    .example("LASTSAVE");

pub fn lastsave(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    let saved_s = context.session.engine().compaction_status().saved_s;
    context.replies.integer(i64::try_from(saved_s).unwrap_or(i64::MAX));
    Ok(())
}
