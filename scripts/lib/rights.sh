# Sourced by the scripts that test: finds out what this machine lets a test do, and says so in MUST_RUN. A test that needs
# what is named there fails where it could not run, instead of passing with a line on stderr (tests/harness/skip.rs).
# MUST_RUN= in the environment leaves every such test free to skip.

can_mount() {
    unshare -m sh -c 'd=$(mktemp -d) && mount -t tmpfs tmpfs "$d" && umount "$d"; r=$?; rmdir "$d"; exit $r' 2>/dev/null
}

can_be_another() { setpriv --reuid=65534 --regid=65534 --clear-groups true 2>/dev/null; }

if [ -z "${MUST_RUN+set}" ]; then
    MUST_RUN=""
    can_mount && MUST_RUN="mounts"
    can_be_another && MUST_RUN="${MUST_RUN:+$MUST_RUN,}users"
fi
export MUST_RUN
