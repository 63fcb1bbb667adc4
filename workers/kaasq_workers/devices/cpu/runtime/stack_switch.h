// Switching from one stack to another: the whole of what is written in assembly, for x86-64 and aarch64.
#pragma once

#include <cstring>

extern "C" void kaasq_switch(void** save_stack_pointer, void* stack_pointer);

// Saves what the calling convention says a callee must preserve, on the old stack, and restores it from the new one.
// It ends in a return and not in a jump: the threads of a block stand in the same chain of calls, so the processor's
// prediction of where each return goes stays right across the switch.
#if defined(__x86_64__)
asm(R"(
    .text
    .p2align 4
    .globl kaasq_switch
    .hidden kaasq_switch
    .type kaasq_switch, @function
kaasq_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size kaasq_switch, .-kaasq_switch
)");
namespace {
// The stack as kaasq_switch would have left it, were `entry` the place to return to.
void* prepared_stack(char* top, void (*entry)()) {
    void** sp = reinterpret_cast<void**>(top);
    *--sp = nullptr;  // a function starts with its return address on the stack: there is none
    *--sp = reinterpret_cast<void*>(entry);
    for (int saved = 0; saved < 6; saved++) *--sp = nullptr;
    return sp;
}
}  // namespace
#elif defined(__aarch64__)
asm(R"(
    .text
    .p2align 4
    .globl kaasq_switch
    .hidden kaasq_switch
    .type kaasq_switch, %function
kaasq_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size kaasq_switch, .-kaasq_switch
)");
namespace {
void* prepared_stack(char* top, void (*entry)()) {
    void** sp = reinterpret_cast<void**>(top - 160);
    memset(sp, 0, 160);
    sp[11] = reinterpret_cast<void*>(entry);  // x30, the link register: `ret` goes there
    return sp;
}
}  // namespace
#else
#error "kaasq's CPU device runs on x86-64 and aarch64"
#endif
