//! Where the parts of the saved state lie. Each form is written down once, for both directions.

use super::Saved;
use crate::state::{Attributes, CS, DS, ES, FS, GS, SS, Segment, Table};

/// Where the save area begins, from SMBASE.
pub(super) const SAVE_AREA: u64 = 0xfe00;
const SIZE: usize = 512;

/// Which processor's layout it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Of a processor with long mode.
    Long,
    Legacy,
}

/// The save area.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Image(pub [u8; SIZE]);

/// What copies a field: into an image, or out of it.
trait Copier {
    /// `at` counts from SMBASE.
    fn copy(&mut self, at: usize, field: &mut [u8]);
}

struct Saver<'a>(&'a mut Image);
struct Loader<'a>(&'a Image);

impl Copier for Saver<'_> {
    fn copy(&mut self, at: usize, field: &mut [u8]) {
        let at = at % SIZE;
        self.0.0[at..at + field.len()].copy_from_slice(field);
    }
}

impl Copier for Loader<'_> {
    fn copy(&mut self, at: usize, field: &mut [u8]) {
        let at = at % SIZE;
        field.copy_from_slice(&self.0.0[at..at + field.len()]);
    }
}

impl Image {
    pub fn empty() -> Image {
        Image([0; SIZE])
    }

    pub fn of(mut saved: Saved, form: Form) -> Image {
        let mut image = Image::empty();
        each_field(&mut Saver(&mut image), form, &mut saved);
        image
    }

    pub fn saved(&self, form: Form) -> Saved {
        let mut saved = Saved::of(&crate::State::power_up());
        each_field(&mut Loader(self), form, &mut saved);
        saved
    }
}

/// A number of `N` bytes.
fn number<const N: usize>(copier: &mut impl Copier, at: usize, value: &mut u64) {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&value.to_le_bytes()[..N]);
    copier.copy(at, &mut bytes);
    let mut wide = [0; 8];
    wide[..N].copy_from_slice(&bytes);
    *value = u64::from_le_bytes(wide);
}

fn each_field(copier: &mut impl Copier, form: Form, saved: &mut Saved) {
    match form {
        Form::Long => long(copier, saved),
        Form::Legacy => legacy(copier, saved),
    }
}

/// Attributes as a descriptor has them; a segment is usable if it is present.
fn rights(attributes: Attributes) -> u64 {
    let present = if attributes.unusable() { !0x80 } else { !0 };
    u64::from(attributes.0 & 0xf0ff & present)
}

fn from_rights(rights: u64) -> Attributes {
    let rights = rights as u32 & 0xf0ff;
    Attributes(if rights & 0x80 == 0 {
        rights | Attributes::UNUSABLE
    } else {
        rights
    })
}

fn long(copier: &mut impl Copier, saved: &mut Saved) {
    let places = [
        (0xfe00, ES),
        (0xfe10, CS),
        (0xfe20, SS),
        (0xfe30, DS),
        (0xfe40, FS),
        (0xfe50, GS),
    ];
    for (at, seg) in places {
        segment64(copier, at, &mut saved.seg[seg]);
    }
    table::<8>(copier, 0xfe64, &mut saved.gdtr);
    segment64(copier, 0xfe70, &mut saved.ldtr);
    table::<8>(copier, 0xfe84, &mut saved.idtr);
    segment64(copier, 0xfe90, &mut saved.tr);
    number::<1>(copier, 0xfecb, &mut saved.shadow);
    number::<8>(copier, 0xfed0, &mut saved.efer);
    number::<4>(copier, 0xfefc, &mut 0x2_0064);
    number::<4>(copier, 0xff00, &mut saved.base);
    number::<8>(copier, 0xff48, &mut saved.cr4);
    number::<8>(copier, 0xff50, &mut saved.cr3);
    number::<8>(copier, 0xff58, &mut saved.cr0);
    number::<8>(copier, 0xff60, &mut saved.dr7);
    number::<8>(copier, 0xff68, &mut saved.dr6);
    number::<8>(copier, 0xff70, &mut saved.rflags);
    number::<8>(copier, 0xff78, &mut saved.rip);
    for (n, register) in saved.gpr.iter_mut().rev().enumerate() {
        number::<8>(copier, 0xff80 + 8 * n, register);
    }
}

fn segment64(copier: &mut impl Copier, at: usize, segment: &mut Segment) {
    let mut selector = segment.selector.into();
    let mut attributes = rights(segment.attributes);
    let mut limit = segment.limit.into();
    number::<2>(copier, at, &mut selector);
    number::<2>(copier, at + 2, &mut attributes);
    number::<4>(copier, at + 4, &mut limit);
    number::<8>(copier, at + 8, &mut segment.base);
    segment.selector = selector as u16;
    segment.attributes = from_rights(attributes);
    segment.limit = limit as u32;
}

/// A table register, with `N` bytes for its base behind the limit.
fn table<const N: usize>(copier: &mut impl Copier, limit_at: usize, table: &mut Table) {
    let mut limit = table.limit.into();
    number::<4>(copier, limit_at, &mut limit);
    number::<N>(copier, limit_at + 4, &mut table.base);
    table.limit = limit as u16;
}

fn legacy(copier: &mut impl Copier, saved: &mut Saved) {
    number::<4>(copier, 0xfef8, &mut saved.base);
    number::<4>(copier, 0xfefc, &mut 0x2_0000);
    number::<4>(copier, 0xff14, &mut saved.cr4);
    number::<1>(copier, 0xff1a, &mut saved.shadow);
    let places = [
        (0xff2c, 0xffb4, DS),
        (0xff38, 0xffb8, FS),
        (0xff44, 0xffbc, GS),
        (0xff84, 0xffa8, ES),
        (0xff90, 0xffac, CS),
        (0xff9c, 0xffb0, SS),
    ];
    for (at, selector_at, seg) in places {
        segment32(copier, at, selector_at, &mut saved.seg[seg]);
    }
    table::<4>(copier, 0xff54, &mut saved.idtr);
    segment32(copier, 0xff5c, 0xffc4, &mut saved.tr);
    table::<4>(copier, 0xff70, &mut saved.gdtr);
    segment32(copier, 0xff78, 0xffc0, &mut saved.ldtr);
    number::<4>(copier, 0xffc8, &mut saved.dr7);
    number::<4>(copier, 0xffcc, &mut saved.dr6);
    for (n, register) in saved.gpr[..8].iter_mut().enumerate() {
        number::<4>(copier, 0xffd0 + 4 * n, register);
    }
    number::<4>(copier, 0xfff0, &mut saved.rip);
    number::<4>(copier, 0xfff4, &mut saved.rflags);
    number::<4>(copier, 0xfff8, &mut saved.cr3);
    number::<4>(copier, 0xfffc, &mut saved.cr0);
}

fn segment32(copier: &mut impl Copier, at: usize, selector_at: usize, segment: &mut Segment) {
    let mut selector = segment.selector.into();
    let mut attributes = rights(segment.attributes) << 8;
    let mut limit = segment.limit.into();
    number::<4>(copier, at, &mut attributes);
    number::<4>(copier, at + 4, &mut limit);
    number::<4>(copier, at + 8, &mut segment.base);
    number::<4>(copier, selector_at, &mut selector);
    segment.selector = selector as u16;
    segment.attributes = from_rights(attributes >> 8);
    segment.limit = limit as u32;
}
