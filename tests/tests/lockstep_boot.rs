//! Debian's kernel boots on the translator, and on the interpreter right behind it: registers are compared wherever the
//! translator stops, memory now and then.
//!
//! RING3_INSTRUCTIONS says how far, in millions.

use anyhow::{Context, Result, anyhow, bail};
use fastrand::Rng;
use ring3_guest::Assets;
use ring3_tests::lockstep::board::{Board, linux};
use ring3_tests::lockstep::follow::{Forgives, are_images};
use ring3_tests::lockstep::{Lockstep, Metronome, Pace, Stage};
use ring3_x86_cpu::Leave;
use ring3_x86_cpu::event::Event;
use std::time::{Duration, Instant};

const MEBIBYTES: usize = 192;
const CMDLINE: &str = "earlycon=uart8250,io,0x3f8 keep_bootcon console=ttyS0 noapic nolapic acpi=off pci=off \
    tsc_early_khz=1000000 tsc=reliable lpj=1000000 nokaslr panic=-1 i8042.noaux i8042.nokbd \
    no_hash_pointers random.trust_cpu=off";
/// Instructions between two looks at all of memory.
const LOOK: u64 = 100_000_000;

type Pair = Lockstep<Board>;

fn build(kernel: &[u8], initramfs: &[u8]) -> Result<Option<Pair>> {
    // Once to see that it can be loaded.
    linux::load(
        &mut Board::new(MEBIBYTES),
        kernel,
        initramfs,
        CMDLINE,
        MEBIBYTES as u64,
    )?;
    Ok(Lockstep::new(|| {
        let mut board = Board::new(MEBIBYTES);
        linux::load(&mut board, kernel, initramfs, CMDLINE, MEBIBYTES as u64).expect("it could be loaded");
        (linux::cpu(), board)
    }))
}

#[derive(Debug)]
struct Difference {
    place: u64,
    #[expect(dead_code, reason = "for a failure's account")]
    mine: u64,
    #[expect(dead_code, reason = "for a failure's account")]
    theirs: u64,
}

/// Where memory is not alike, and not just by saved flags; the saved flags become the leader's.
fn memory_differences(pair: &mut Pair) -> Vec<Difference> {
    const CHUNK: usize = 1 << 20;
    let (mut mine, mut theirs) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut told = Vec::new();
    for at in (0..(MEBIBYTES << 20) as u64).step_by(CHUNK) {
        pair.leaders_world.memory.peek(at, &mut mine);
        pair.follower.world.memory.peek(at, &mut theirs);
        if mine == theirs {
            continue;
        }
        let words = mine.chunks_exact(8).zip(theirs.chunks_exact(8)).enumerate();
        for (n, (mine, theirs)) in words.filter(|(_, (mine, theirs))| mine != theirs) {
            let word = |bytes: &[u8]| {
                bytes
                    .iter()
                    .rev()
                    .fold(0, |word, byte| word << 8 | u64::from(*byte))
            };
            let (mine, theirs, place) = (word(mine), word(theirs), at + 8 * n as u64);
            if are_images(mine, theirs) {
                pair.follower.world.memory.poke64(place, mine);
                pair.follower.forgiven += 1;
            } else if told.len() < 20 {
                told.push(Difference { place, mine, theirs });
            }
        }
    }
    told
}

/// Whether the words that differed do so no more.
fn is_alike(told: &[Difference]) -> impl Fn(&Board, &Board) -> bool {
    let places: Vec<u64> = told.iter().map(|told| told.place).collect();
    move |mine, theirs| {
        places
            .iter()
            .all(|place| mine.memory.peek64(*place) == theirs.memory.peek64(*place))
    }
}

/// Time passes and interrupts come, for both.
fn happen(pair: &mut Pair, stage: Stage, executed: u64) -> Result<()> {
    for board in [&mut pair.leaders_world, &mut pair.follower.world] {
        board.pass(executed);
    }
    if stage == Stage::Left(Leave::Halted) && !pair.leaders_world.has_interrupt() {
        if !pair.leaders_world.pass_to_interrupt() {
            bail!("it sleeps for ever");
        }
        pair.follower.world.pass_to_interrupt();
    }
    if !pair.leaders_world.has_interrupt() || !pair.leader.core.accepts_interrupts() {
        return Ok(());
    }
    let vector = pair.leaders_world.acknowledge().context("it was there")?;
    if pair.follower.world.acknowledge() != Some(vector) {
        bail!("the other board has another interrupt");
    }
    let event = Event::External { vector };
    let left = (
        pair.leader.deliver(event, &mut pair.leaders_world),
        pair.follower.cpu.deliver(event, &mut pair.follower.world),
    );
    match left {
        (None, None) => Ok(()),
        other => bail!("the interrupt was not delivered: {other:?}"),
    }
}

fn boot(pair: &mut Pair, most: u64) -> Result<String> {
    let metronome = Metronome::new(Duration::from_micros(60));
    let mut rng = Rng::with_seed(1);
    let mut looked = 0;
    loop {
        let before = pair.instructions();
        let pace = if rng.u8(..) < 40 { Pace::Short } else { Pace::Long };
        let stage = pair
            .advance(pace, metronome.word())
            .map_err(|told| anyhow!("at {:#x}: {told}", pair.leader.core.state.rip))?;
        if pair.instructions() - looked > LOOK || pair.instructions() > most {
            looked = pair.instructions();
            let mut told = memory_differences(pair);
            if stage == Stage::Boundary && !told.is_empty() && pair.search_on(is_alike(&told)) {
                told = memory_differences(pair);
            }
            if !told.is_empty() {
                bail!("memory, after {looked} instructions: {told:x?}");
            }
        }
        if pair.instructions() > most {
            return Ok("that is enough".to_string());
        }
        match stage {
            Stage::Boundary | Stage::Left(Leave::Halted) => {}
            Stage::Left(other) => return Ok(format!("it ended: {other:?}")),
        }
        let executed = pair.instructions() - before;
        happen(pair, stage, executed)?;
    }
}

#[test]
#[ignore = "boots a kernel twice: cargo xtask lockstep-boot"]
fn debians_kernel() -> Result<()> {
    let assets = Assets::get()?;
    let kernel = std::fs::read(&assets.kernel)?;
    let initramfs = std::fs::read(&assets.initramfs)?;
    let Some(mut pair) = build(&kernel, &initramfs)? else {
        println!("skipped: the translator, which needs more of the host");
        return Ok(());
    };
    pair.follower.forgives = Forgives::Images;
    // On a busy machine the metronome can be late.
    pair.follower.farthest = 1_000_000_000;
    let most = std::env::var("RING3_INSTRUCTIONS").map_or(Ok(300), |text| text.parse::<u64>())?;
    let begun = Instant::now();
    let end = boot(&mut pair, most * 1_000_000);
    println!(
        "lockstep boot: {} instructions, {} boundaries, {} forgiven, {:?}",
        pair.instructions(),
        pair.boundaries,
        pair.follower.forgiven,
        begun.elapsed()
    );
    let console = String::from_utf8_lossy(&pair.leaders_world.console).into_owned();
    let from = console.len().saturating_sub(3000);
    println!("{}", console.get(from..).unwrap_or(&console));
    println!("{}", end?);
    Ok(())
}
