//! The commands on this connection itself.

use super::{CommandError, Context, ECHO_BYTES_MAX, lossy};
use crate::request::Request;

type Result = std::result::Result<(), CommandError>;

pub fn quit(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    context.client.quit = true;
    context.replies.status("OK");
    Ok(())
}

pub fn id(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    context.replies.integer(context.client.id as i64);
    Ok(())
}

pub fn get_name(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    match &context.client.name[..] {
        [] => context.replies.nil(),
        name => context.replies.bulk(name),
    }
    Ok(())
}

pub fn set_name(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let name = &request[2];
    if !name.iter().all(u8::is_ascii_graphic) {
        return Err(CommandError::Name("Client names"));
    }
    context.client.name = name.to_vec();
    context.replies.status("OK");
    Ok(())
}

/// Checked and forgotten: nothing shows it yet.
pub fn set_info(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let attribute = match &request[2] {
        word if word.eq_ignore_ascii_case(b"LIB-NAME") => "lib-name",
        word if word.eq_ignore_ascii_case(b"LIB-VER") => "lib-ver",
        word => return Err(CommandError::Option(lossy(word, ECHO_BYTES_MAX))),
    };
    if !request[3].iter().all(u8::is_ascii_graphic) {
        return Err(CommandError::Name(attribute));
    }
    context.replies.status("OK");
    Ok(())
}
