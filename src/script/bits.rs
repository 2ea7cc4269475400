//! The operations of the library `bit`: on 32-bit integers, as LuaJIT has them.

/// A number as 32 bits, modulo 2 to the power of 32.
pub fn to_bits(number: f64) -> u32 {
    const MODULUS: f64 = 4_294_967_296.0;
    let rounded = number.round_ties_even();
    if rounded.is_finite() { rounded.rem_euclid(MODULUS) as u64 as u32 } else { 0 }
}

/// 32 bits as the signed number that scripts see.
pub fn to_number(bits: u32) -> f64 {
    f64::from(bits as i32)
}

/// An operation on two numbers or more.
pub type Fold = fn(u32, u32) -> u32;

/// Those that take any number of arguments.
pub const FOLDS: [(&str, Fold); 3] =
    [("band", |a, b| a & b), ("bor", |a, b| a | b), ("bxor", |a, b| a ^ b)];

/// Those by so many bits, of which the lowest five count.
pub const SHIFTS: [(&str, Fold); 5] = [
    ("lshift", |bits, by| bits << (by & 31)),
    ("rshift", |bits, by| bits >> (by & 31)),
    ("arshift", |bits, by| ((bits as i32) >> (by & 31)) as u32),
    ("rol", |bits, by| bits.rotate_left(by & 31)),
    ("ror", |bits, by| bits.rotate_right(by & 31)),
];

/// An operation on one number.
pub type Single = fn(u32) -> u32;

/// Those on one number.
pub const SINGLES: [(&str, Single); 3] =
    [("tobit", |bits| bits), ("bnot", |bits| !bits), ("bswap", u32::swap_bytes)];

/// So many hexadecimal digits of a number, the lowest ones; capitals if `digits` is negative.
pub fn to_hex(bits: u32, digits: i32) -> String {
    let count = digits.unsigned_abs().min(8) as usize;
    let all = if digits < 0 { format!("{bits:08X}") } else { format!("{bits:08x}") };
    all[all.len() - count..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_modulo_their_width() {
        assert_eq!(to_number(to_bits(4_294_967_295.0)), -1.0);
        assert_eq!(to_number(to_bits(2_147_483_648.0)), -2_147_483_648.0);
        assert_eq!(to_bits(-1.0), u32::MAX);
        assert_eq!(to_bits(f64::NAN), 0);
        assert_eq!(to_bits(1e300), 0);
        assert_eq!(
            (to_hex(255, 8), to_hex(255, -4), to_hex(255, 0)),
            ("000000ff".into(), "00FF".into(), String::new())
        );
        let shift = |name: &str, bits, by| {
            SHIFTS.iter().find(|(known, _)| *known == name).unwrap().1(bits, by)
        };
        assert_eq!(to_number(shift("arshift", to_bits(-256.0), 8)), -1.0);
        assert_eq!(shift("lshift", 1, 33), 2);
    }
}
