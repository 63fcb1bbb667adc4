// Guard mode: a kernel that goes for unmapped memory fails its launch; the process lives on to say so, and no longer.
//
// Only a fault of the module's own instructions is caught. Elsewhere (in printf, say) a lock might be held, which would
// then be held for ever: there the process dies, as it does without guard mode.
#pragma once

#include <link.h>
#include <signal.h>
#include <ucontext.h>

#include <cstdio>
#include <memory>
#include <mutex>

#include <setjmp.h>

#include "failure.h"

namespace {

struct CodeRange {
    uintptr_t start = 0, end = 0;
};

// Where a launch goes on after a fault.
struct Landing {
    sigjmp_buf jump;
    CodeRange code;
    volatile uintptr_t address = 0;
    volatile const char* did = nullptr;
};
__thread __attribute__((tls_model("initial-exec"))) Landing* landing;

struct sigaction previous_segv, previous_bus;

uintptr_t instruction(const void* context) {
    const auto* machine = &static_cast<const ucontext_t*>(context)->uc_mcontext;
#if defined(__x86_64__)
    return static_cast<uintptr_t>(machine->gregs[REG_RIP]);
#else
    return static_cast<uintptr_t>(machine->pc);
#endif
}

const char* access(const void* context) {
#if defined(__x86_64__)
    const auto cause = static_cast<const ucontext_t*>(context)->uc_mcontext.gregs[REG_ERR];
    return cause & 2 ? "wrote to" : "read from";
#else
    (void)context;
    return "went for";
#endif
}

void on_fault(int signal, siginfo_t* info, void* context) {
    Landing* here = landing;
    const uintptr_t at = instruction(context);
    if (here && info->si_code > 0 && at >= here->code.start && at < here->code.end) {
        landing = nullptr;
        // The processor does not tell an address that no memory can have (the kernel's half, or beyond all bits).
        here->address = info->si_code == SI_KERNEL ? 0 : reinterpret_cast<uintptr_t>(info->si_addr);
        here->did = info->si_code == SI_KERNEL ? "went for" : access(context);
        siglongjmp(here->jump, 1);
    }
    const struct sigaction& before = signal == SIGSEGV ? previous_segv : previous_bus;
    if (before.sa_flags & SA_SIGINFO) return before.sa_sigaction(signal, info, context);
    if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) return before.sa_handler(signal);
    ::signal(signal, SIG_DFL);  // the instruction is tried again, and ends the process
}

void catch_faults() {
    static std::once_flag once;
    std::call_once(once, [] {
        struct sigaction action {};
        action.sa_sigaction = on_fault;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        sigaction(SIGSEGV, &action, &previous_segv);
        sigaction(SIGBUS, &action, &previous_bus);
    });
}

// A stack for the handler: the thread's own may be what has overflowed.
class SignalStack {
  public:
    SignalStack() {
        stack_t now{};
        if (sigaltstack(nullptr, &now) || !(now.ss_flags & SS_DISABLE)) return;
        memory.reset(new char[BYTES]);
        stack_t mine{};
        mine.ss_sp = memory.get();
        mine.ss_size = BYTES;
        sigaltstack(&mine, nullptr);
    }
    ~SignalStack() {
        if (!memory) return;
        stack_t none{};
        none.ss_flags = SS_DISABLE;
        sigaltstack(&none, nullptr);
    }
    SignalStack(const SignalStack&) = delete;

  private:
    static constexpr size_t BYTES = 64 << 10;
    std::unique_ptr<char[]> memory;
};

// The instructions of the library that a function lies in.
CodeRange code_around(const void* function) {
    struct Search {
        uintptr_t at;
        CodeRange found;
    } search{reinterpret_cast<uintptr_t>(function), {}};
    dl_iterate_phdr(
        [](dl_phdr_info* library, size_t, void* data) {
            auto* search = static_cast<Search*>(data);
            for (int i = 0; i < library->dlpi_phnum; i++) {
                const auto& part = library->dlpi_phdr[i];
                const uintptr_t start = library->dlpi_addr + part.p_vaddr, end = start + part.p_memsz;
                if (part.p_type == PT_LOAD && part.p_flags & PF_X && search->at >= start && search->at < end) {
                    search->found = {start, end};
                    return 1;
                }
            }
            return 0;
        },
        &search);
    return search.found;
}

// Calls `run`; if an instruction within `code` faults meanwhile, throws what `told` makes of the address and the words.
template <class Run, class Told>
void run_caught(CodeRange code, Run run, Told told) {
    thread_local SignalStack stack;
    (void)stack;
    struct Reset {
        ~Reset() { landing = nullptr; }
    } reset;
    Landing here;
    here.code = code;
    if (sigsetjmp(here.jump, 0)) {
        char where[32] = "an impossible address";
        if (here.address) snprintf(where, sizeof where, "address %#zx", static_cast<size_t>(here.address));
        const std::string did = const_cast<const char*>(here.did);
        throw told(here.address, did + " " + where + ", where no memory is");
    }
    landing = &here;
    run();
}

}  // namespace
