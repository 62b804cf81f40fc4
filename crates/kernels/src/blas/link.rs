//! Replaces a function imported by a loaded library.
//!
//! Imported functions are called through slots of the global offset table, filled by the dynamic linker. MLX's are bound
//! when Python loads it, too early for symbol interposition, so the slots are overwritten. The layout is that of the
//! [ELF specification](https://refspecs.linuxfoundation.org/elf/gabi4+/contents.html).

use std::ffi::{CStr, OsStr, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use libc::{Elf64_Phdr, Elf64_Sym, PT_DYNAMIC, PT_GNU_RELRO, dl_phdr_info};

/// `Elf64_Dyn`
#[repr(C)]
struct Dynamic {
    tag: i64,
    value: u64,
}

/// `Elf64_Rela`
#[repr(C)]
struct Relocation {
    offset: u64,
    info: u64,
    addend: i64,
}

// Entries of the dynamic section.
const DT_PLTRELSZ: i64 = 2;
const DT_STRTAB: i64 = 5;
const DT_SYMTAB: i64 = 6;
const DT_RELA: i64 = 7;
const DT_RELASZ: i64 = 8;
const DT_JMPREL: i64 = 23;

/// `R_*_GLOB_DAT` and `R_*_JUMP_SLOT`: the address of a symbol, as it is.
#[cfg(target_arch = "x86_64")]
const SLOTS: [u64; 2] = [6, 7];
#[cfg(target_arch = "aarch64")]
const SLOTS: [u64; 2] = [1025, 1026];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const SLOTS: [u64; 0] = [];

struct Search<'a> {
    library: &'a str,
    symbol: &'a CStr,
    function: usize,
    replaced: usize,
}

/// Redirects the imports of `symbol` by all loaded libraries with the file name `library` to `function`, which must have
/// the same signature. Returns the number of slots written.
pub(super) fn replace(library: &str, symbol: &CStr, function: usize) -> usize {
    let mut search = Search { library, symbol, function, replaced: 0 };
    // SAFETY: the callback gets `search`, which outlives the call, and keeps the linker's lock until it returns.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut search).cast()) };
    search.replaced
}

unsafe extern "C" fn visit(info: *mut dl_phdr_info, _size: usize, search: *mut c_void) -> c_int {
    // SAFETY: the linker's description of a library, and what `replace` passed.
    let (info, search) = unsafe { (&*info, &mut *search.cast::<Search>()) };
    if info.dlpi_name.is_null() {
        return 0;
    }
    // SAFETY: a string of the linker's.
    let path = Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(info.dlpi_name) }.to_bytes()));
    if path.file_name() == Some(OsStr::new(search.library)) {
        // SAFETY: the headers of a library that stays loaded while the callback runs.
        unsafe { replace_in(info, search) };
    }
    0
}

/// # Safety
/// `info` describes a loaded library.
unsafe fn replace_in(info: &dl_phdr_info, search: &mut Search) {
    let base = info.dlpi_addr as usize;
    // SAFETY: the program headers of the library.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    let segment = |kind| headers.iter().find(|header| header.p_type == kind);
    let Some(dynamic) = segment(PT_DYNAMIC) else { return };
    let entry = |tag| {
        let mut entry = (base + dynamic.p_vaddr as usize) as *const Dynamic;
        // SAFETY: the dynamic section ends with an entry of tag 0.
        unsafe {
            while (*entry).tag != 0 && (*entry).tag != tag {
                entry = entry.add(1);
            }
            Some((*entry).value as usize).filter(|_| (*entry).tag == tag)
        }
    };
    // glibc has made these addresses; others leave them as offsets from the base.
    let address = |tag| entry(tag).map(|value| if value < base { base + value } else { value });
    let (Some(symbols), Some(names)) = (address(DT_SYMTAB), address(DT_STRTAB)) else { return };
    for (table, bytes) in [(DT_JMPREL, DT_PLTRELSZ), (DT_RELA, DT_RELASZ)] {
        let (Some(table), Some(bytes)) = (address(table), entry(bytes)) else { continue };
        // SAFETY: the table of the dynamic section, of the size that stands there.
        let relocations = unsafe {
            std::slice::from_raw_parts(table as *const Relocation, bytes / size_of::<Relocation>())
        };
        for relocation in
            relocations.iter().filter(|relocation| SLOTS.contains(&(relocation.info & 0xffff_ffff)))
        {
            // SAFETY: the symbol's index and its name's offset are the library's own.
            let name = unsafe {
                let symbol = &*(symbols as *const Elf64_Sym).add((relocation.info >> 32) as usize);
                CStr::from_ptr((names + symbol.st_name as usize) as *const _)
            };
            if name == search.symbol {
                // SAFETY: a slot of the library for an address.
                unsafe {
                    write(base + relocation.offset as usize, search.function, base, segment(PT_GNU_RELRO));
                };
                search.replaced += 1;
            }
        }
    }
}

/// Writes `value` to `slot`, opening for the moment the part that the linker has closed, if the slot is there.
///
/// # Safety
/// `slot` is the aligned address of a word that the library at `base` reads as an address.
unsafe fn write(slot: usize, value: usize, base: usize, closed: Option<&Elf64_Phdr>) {
    let inside = closed.is_some_and(|part| {
        let start = base + part.p_vaddr as usize;
        (start..start + part.p_memsz as usize).contains(&slot)
    });
    // SAFETY: the page that holds the slot; it is readable before, meanwhile and after.
    unsafe {
        let page = libc::sysconf(libc::_SC_PAGESIZE) as usize;
        let protect = |mode| libc::mprotect((slot / page * page) as *mut c_void, page, mode) == 0;
        if inside && !protect(libc::PROT_READ | libc::PROT_WRITE) {
            return;
        }
        // At once, as another thread may be calling through it.
        (*(slot as *const AtomicUsize)).store(value, Ordering::Release);
        if inside {
            protect(libc::PROT_READ);
        }
    }
}
