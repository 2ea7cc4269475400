//! The known name that a misspelt one is nearest to.

/// The one of `names` whose `compared` part is most like `word`, if one is much like it.
pub fn nearest<'a>(
    word: &str,
    names: &[&'a str],
    compared: impl Fn(&'a str) -> &'a str,
) -> Option<&'a str> {
    const LIKENESS_MIN: f64 = 0.75;
    let rated = names.iter().map(|name| (strsim::jaro(word, compared(name)), *name));
    let likely = rated.filter(|(likeness, _)| *likeness >= LIKENESS_MIN);
    likely.max_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, name)| name)
}
