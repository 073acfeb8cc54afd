//! `ring3-soak [--seconds N] [--seed N] [--churn]`; `cargo xtask soak` calls it.

#![forbid(unsafe_code)]

use std::time::Duration;

use anyhow::{Context, Result, bail};
use ring3_guest::Accel;
use ring3_tests::soak::{churn, soak};

fn main() -> Result<()> {
    let (mut seconds, mut seed, mut only_churn) = (60, None, false);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || -> Result<u64> {
            let value = words.next().with_context(|| format!("{word} takes a number"))?;
            let hexadecimal = value
                .strip_prefix("0x")
                .map(|digits| u64::from_str_radix(digits, 16));
            Ok(hexadecimal.unwrap_or_else(|| value.parse())?)
        };
        match word.as_str() {
            "--seconds" => seconds = number()?,
            "--seed" => seed = Some(number()?),
            "--churn" => only_churn = true,
            _ => bail!("{word} is unknown; there are --seconds N, --seed N and --churn"),
        }
    }
    let time = Duration::from_secs(seconds);
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    if only_churn {
        return churn::churn(time, seed);
    }
    println!("soak: {seconds} s with seed {seed:#x}");
    soak(time, seed, Accel::from_environment()?)?;
    println!("ok: nothing crashed, leaked or got stuck");
    Ok(())
}
