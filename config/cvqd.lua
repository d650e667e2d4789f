-- Captures of `cvqd trace --pcap` in Wireshark: the fields of each control command and its answer.
-- Copy to ~/.local/lib/wireshark/plugins, or: wireshark -X lua_script:cvqd.lua capture.pcapng

local cvqd = Proto("cvqd", "cvqd control command")

local kinds = { [1] = "command", [2] = "answer" }
local outcomes = { [0] = "none", [1] = "ok", [2] = "err", [3] = "refused", [4] = "malformed", [5] = "expired", [6] = "late" }
local acks = { [0] = "OK", [1] = "ERR" }
-- class * 256 + command
local commands = {
    [0x0000] = "rx.promisc",
    [0x0001] = "rx.allmulti",
    [0x0002] = "rx.alluni",
    [0x0003] = "rx.nomulti",
    [0x0004] = "rx.nouni",
    [0x0005] = "rx.nobcast",
    [0x0100] = "mac.table_set",
    [0x0101] = "mac.addr_set",
    [0x0200] = "vlan.add",
    [0x0201] = "vlan.del",
    [0x0300] = "announce.ack",
    [0x0400] = "mq.vq_pairs_set",
    [0x0401] = "mq.rss_config",
    [0x0402] = "mq.hash_config",
    [0x0500] = "guest_offloads.set",
    [0x0600] = "notf_coal.tx_set",
    [0x0601] = "notf_coal.rx_set",
    [0x0602] = "notf_coal.vq_set",
    [0x0603] = "notf_coal.vq_get",
    [0x0800] = "stats.query",
    [0x0801] = "stats.get",
}

local f = cvqd.fields
f.version = ProtoField.uint8("cvqd.version", "Version")
f.kind = ProtoField.uint8("cvqd.kind", "Kind", base.DEC, kinds)
f.outcome = ProtoField.uint8("cvqd.outcome", "Outcome", base.DEC, outcomes)
f.id = ProtoField.uint32("cvqd.id", "Command id")
f.command = ProtoField.uint16("cvqd.command", "Command", base.HEX, commands)
f.data = ProtoField.bytes("cvqd.data", "Data")
f.ack = ProtoField.uint8("cvqd.ack", "Ack", base.DEC, acks)
f.result = ProtoField.bytes("cvqd.result", "Result")
f.mac = ProtoField.ether("cvqd.mac", "MAC address")
f.vlan = ProtoField.uint16("cvqd.vlan", "VLAN")
f.pairs = ProtoField.uint16("cvqd.pairs", "Queue pairs")
f.on = ProtoField.uint8("cvqd.on", "On")

-- what a command with two bytes of header and this value says
local values = {
    [0x0101] = { f.mac, 6 },
    [0x0200] = { f.vlan, 2 },
    [0x0201] = { f.vlan, 2 },
    [0x0400] = { f.pairs, 2 },
}
for mode = 0, 5 do
    values[mode] = { f.on, 1 }
end

function cvqd.dissector(buffer, packet, tree)
    packet.cols.protocol = "cvqd"
    if buffer:len() < 8 or buffer(0, 1):uint() ~= 1 then
        return 0
    end
    local part = tree:add(cvqd, buffer())
    local kind, outcome, id = buffer(1, 1):uint(), buffer(2, 1):uint(), buffer(4, 4):le_uint()
    part:add(f.version, buffer(0, 1))
    part:add(f.kind, buffer(1, 1))
    part:add(f.outcome, buffer(2, 1))
    part:add_le(f.id, buffer(4, 4))
    local length = buffer:len() - 8
    if kind == 1 and length >= 2 then
        local number = buffer(8, 2):uint()
        local value = values[number]
        part:add(f.command, buffer(8, 2))
        if length > 2 then
            part:add(f.data, buffer(10))
        end
        if value and length == 2 + value[2] then
            part:add_le(value[1], buffer(10, value[2]))
        end
        packet.cols.info = string.format("%d %s", id, commands[number] or string.format("0x%04x", number))
    elseif kind == 2 then
        if length >= 1 then
            part:add(f.ack, buffer(8, 1))
        end
        if length > 1 then
            part:add(f.result, buffer(9))
        end
        packet.cols.info = string.format("%d %s", id, outcomes[outcome] or outcome)
    end
    return buffer:len()
end

DissectorTable.get("wtap_encap"):add(wtap.USER0, cvqd)
