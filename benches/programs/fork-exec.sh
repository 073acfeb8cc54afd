# Page faults, page tables and context switches: 300 processes.
i=0
while [ $i -lt 300 ]; do
    $BUSYBOX true
    i=$((i + 1))
done
