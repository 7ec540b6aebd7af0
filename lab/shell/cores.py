"""stub"""
import os
def granted():
    return len(os.sched_getaffinity(0))
def memory():
    with open("/proc/meminfo") as f:
        for line in f:
            if line.startswith("MemAvailable"):
                return 1024 * int(line.split()[1])
