//! What a small hash or set has, replied with where it lies: reads of one element, or of all, make no copy of the others.

use crate::cx::{Cx, Fail};
use crate::kind::Kind;
use crate::resp::ReplyWriter;
use crate::types::dict::{Dict, Elements};
use crate::types::small::Broken;
use crate::types::{Look, damaged};

/// Gives the elements of the hash or set at the command's first key to `show`, if that is a small one, and none if there is
/// nothing. Else it gives the large one back, and `show` was not called.
///
/// # Errors
/// WRONGTYPE, or what the engine meets.
pub fn show<'a>(
    cx: &mut Cx<'a>,
    kind: Kind,
    show: impl FnOnce(&mut ReplyWriter, Option<Elements<'_>>) -> Result<(), Broken>,
) -> Result<Option<Dict<'a>>, Fail> {
    let key = cx.key(0);
    let mut show = Some(show);
    let shown = cx.show(key, kind, |value, reply| {
        Dict::look(key, kind, value, |elements| {
            show.take().map_or(Ok(()), |show| show(reply, Some(elements)))
        })
    })?;
    match (shown, show) {
        (Some(Look::Large(large)), _) => Ok(Some(large)),
        (None, Some(show)) => show(cx.reply, None).map(|()| None).map_err(|Broken| damaged(key).into()),
        _ => Ok(None),
    }
}

/// The value of a name (nothing in a set), if there are elements and it is among them.
///
/// # Errors
/// If the elements have no meaning.
pub fn find<'e>(elements: Option<Elements<'e>>, name: &[u8]) -> Result<Option<&'e [u8]>, Broken> {
    elements.map_or(Ok(None), |elements| elements.find(name))
}

/// How many there are.
#[must_use]
pub fn count(elements: Option<Elements<'_>>) -> usize {
    elements.map_or(0, |elements| elements.left())
}
