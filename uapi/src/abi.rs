//! The one way an ABI structure is declared: C layout, no hidden padding, free to be read from and written as bytes, and
//! described field by field ([`crate::layout`]).

macro_rules! abi {
    ($($(#[$attr:meta])* struct $name:ident { $($(#[$fattr:meta])* $field:ident: $ty:ty),* $(,)? })*) => {$(
        $(#[$attr])*
        #[repr(C)]
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq,
            ::zerocopy::FromBytes, ::zerocopy::IntoBytes, ::zerocopy::Immutable, ::zerocopy::KnownLayout,
        )]
        pub struct $name { $($(#[$fattr])* pub $field: $ty),* }

        impl Default for $name {
            fn default() -> Self {
                ::zerocopy::FromZeros::new_zeroed()
            }
        }

        impl $crate::layout::Described for $name {
            const KIND: $crate::layout::Kind = $crate::layout::Kind::Structure(&$crate::layout::Layout {
                name: stringify!($name),
                size: size_of::<$name>(),
                fields: &[$($crate::layout::Field {
                    name: stringify!($field),
                    offset: ::std::mem::offset_of!($name, $field),
                    kind: <$ty as $crate::layout::Described>::KIND,
                }),*],
            });
        }
    )*};
}

/// Accessors of a C union kept as an array of words: one pair of functions for each member.
macro_rules! union_member {
    ($owner:ident.$field:ident { $($(#[$attr:meta])* $get:ident / $set:ident: $ty:ty),* $(,)? }) => {
        impl $owner {
            $(
                $(#[$attr])*
                pub fn $get(&self) -> $ty {
                    use ::zerocopy::{FromBytes, IntoBytes};
                    <$ty>::read_from_prefix(self.$field.as_bytes()).map(|(v, _)| v).unwrap_or_default()
                }

                $(#[$attr])*
                pub fn $set(&mut self, value: $ty) {
                    use ::zerocopy::IntoBytes;
                    let bytes = value.as_bytes();
                    self.$field.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
                }
            )*
        }
    };
}
