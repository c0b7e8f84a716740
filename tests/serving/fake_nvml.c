/* A stand-in for libnvidia-ml.so.1: GPUs whose properties come from FAKE_NVML_* lists, one number for each GPU. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID = 2, UNSUPPORTED = 3, TOO_SMALL = 7, GPU_IS_LOST = 15, MOST = 16 };

struct device { unsigned index; };
static struct device devices[MOST];

static long number(const char *list, unsigned index, long otherwise) {
    char name[64];
    snprintf(name, sizeof name, "FAKE_NVML_%s", list);
    const char *text = getenv(name);
    for (; text && index; index--) {
        text = strchr(text, ',');
        text = text ? text + 1 : NULL;
    }
    return text && *text ? strtol(text, NULL, 0) : otherwise;
}

static unsigned count(void) { return (unsigned)number("COUNT", 0, 4); }
static unsigned long long bytes(const char *list, unsigned index, long mib) {
    return (unsigned long long)number(list, index, mib) << 20;
}

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    for (unsigned i = 0; i < MOST; i++) devices[i].index = i;
    return (int)number("INIT", 0, OK);
}
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) {
    return code == 9 ? "Driver Not Loaded" : code == GPU_IS_LOST ? "GPU is lost" : "some error";
}
int nvmlSystemGetDriverVersion(char *text, unsigned size) { snprintf(text, size, "580.105.08"); return OK; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = (int)number("CUDA", 0, 13000); return OK; }
int nvmlDeviceGetCount_v2(unsigned *out) { *out = count(); return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct device **out) {
    if (index >= count()) return INVALID;
    *out = &devices[index];
    return number("LOST", 0, -1) == (long)index ? GPU_IS_LOST : OK;
}
int nvmlDeviceGetUUID(struct device *d, char *text, unsigned size) {
    snprintf(text, size, "GPU-0badc0de-0000-4000-8000-%012u", d->index);
    return OK;
}
int nvmlDeviceGetName(struct device *d, char *text, unsigned size) {
    (void)d;
    snprintf(text, size, "NVIDIA A100-SXM4-40GB");
    return OK;
}
int nvmlDeviceGetMinorNumber(struct device *d, unsigned *out) {
    *out = (unsigned)number("MINORS", d->index, d->index);
    return OK;
}
struct pci { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; };
int nvmlDeviceGetPciInfo_v3(struct device *d, struct pci *out) {
    memset(out, 0, sizeof *out);
    out->bus = 4 + d->index;
    snprintf(out->bus_id, sizeof out->bus_id, "00000000:%02X:00.0", out->bus);
    return OK;
}
struct memory { unsigned long long total, free, used; };
struct memory2 { unsigned version; unsigned long long total, reserved, free, used; };
int nvmlDeviceGetMemoryInfo(struct device *d, struct memory *out) {
    out->total = bytes("MIB", d->index, 40960);
    out->used = bytes("USED", d->index, 0);
    out->free = out->total - out->used;
    return OK;
}
int nvmlDeviceGetMemoryInfo_v2(struct device *d, struct memory2 *out) {
    if (number("OLD", 0, 0)) return 25;
    out->total = bytes("MIB", d->index, 40960);
    out->reserved = bytes("RESERVED", d->index, 614);
    out->used = bytes("USED", d->index, 0);
    out->free = out->total - out->reserved - out->used;
    return OK;
}
int nvmlDeviceGetMemoryBusWidth(struct device *d, unsigned *out) { (void)d; *out = 5120; return OK; }
int nvmlDeviceGetMaxClockInfo(struct device *d, int kind, unsigned *out) {
    (void)d;
    *out = kind == 2 ? 1215 : 1410;
    return OK;
}
int nvmlDeviceGetCudaComputeCapability(struct device *d, int *major, int *minor) {
    (void)d;
    *major = 8;
    *minor = 0;
    return OK;
}
int nvmlDeviceGetMigMode(struct device *d, unsigned *current, unsigned *pending) {
    *current = *pending = (unsigned)number("MIG", d->index, 0);
    return OK;
}
int nvmlDeviceGetPersistenceMode(struct device *d, int *out) { *out = (int)number("PERSISTENCE", d->index, 1); return OK; }
int nvmlDeviceGetComputeMode(struct device *d, int *out) { *out = (int)number("COMPUTE_MODE", d->index, 0); return OK; }
int nvmlDeviceGetTotalEccErrors(struct device *d, int type, int counter, unsigned long long *out) {
    (void)counter;
    *out = type == 1 ? (unsigned long long)number("ECC", d->index, 0) : 7;
    return number("ECC", d->index, 0) < 0 ? UNSUPPORTED : OK;
}
int nvmlDeviceGetCurrentClocksEventReasons(struct device *d, unsigned long long *out) {
    *out = (unsigned long long)number("THROTTLE", d->index, 0);
    return OK;
}
struct process { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; };
int nvmlDeviceGetComputeRunningProcesses_v3(struct device *d, unsigned *size, struct process *out) {
    long pid = number("PIDS", d->index, 0);
    unsigned room = *size;
    *size = pid > 0;
    if (pid <= 0) return OK;
    if (!out || !room) return TOO_SMALL;
    memset(out, 0, sizeof *out);
    out->pid = (unsigned)pid;
    out->used = bytes("USED", d->index, 0);
    return OK;
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(struct device *d, unsigned *size, struct process *out) {
    (void)d;
    (void)out;
    *size = 0;
    return OK;
}
int nvmlDeviceGetP2PStatus(struct device *a, struct device *b, int kind, int *out) {
    (void)kind;
    long apart = number("NO_PEER", 0, -1);
    *out = apart == (long)a->index || apart == (long)b->index ? 4 : 0;
    return OK;
}
